"""A snapshot's configuration is the base of the log that begins behind it, also after a restart."""

from nodedb_node.multiraft import books
from nodedb_node.native import wal
from nodedb_node.native.wal import Book
from nodedb_node.raft import configuration as configurations
from nodedb_node.raft.messages import CONFIG, NOOP, Append, Entry, NodeNumber, Reset

FOUNDERS = configurations.founding([NodeNumber(1), NodeNumber(2)])
LATER = configurations.founding([NodeNumber(1), NodeNumber(2), NodeNumber(3)])


def test_the_configuration_of_an_installed_snapshot_takes_the_place_of_the_old_one() -> None:
    carried = books.Carried(configuration=configurations.encode(FOUNDERS))
    records = books.beginning(5, carried, 0, 0)
    records += books.written(5, Reset(50, 3, False, 40, configurations.encode(LATER)))
    with Book() as book:
        write(book, records)
        restored = books.restored(5, book, 50, True)
    assert (restored.mark_index, restored.config_index, restored.configuration) == (50, 40, LATER)


def test_what_is_rewritten_with_an_install_takes_no_configuration_that_the_install_gives_up() -> None:
    """A segment dies in the append that carries a Reset: the book it is rewritten from still has the entries, and the
    configuration among them, that the snapshot takes away. A swarm found a restart that believed in it."""
    given_up = Entry(4, CONFIG, 9, configurations.encode(LATER))
    before = books.beginning(5, books.Carried(configuration=configurations.encode(FOUNDERS)), 0, 0)
    before += books.written(5, Append(1, [Entry(4, NOOP, 0, b""), given_up, Entry(4, NOOP, 0, b"")]))
    installed = Reset(3, 5, False, 0, configurations.encode(FOUNDERS))
    with Book() as book:
        write(book, before)
        write(book, [*books.rewritten(5, book, (installed.index, installed.term)), *books.written(5, installed)])
        restored = books.restored(5, book, 3, True)
    assert (restored.mark_index, restored.mark_term) == (3, 5)
    assert (restored.config_index, restored.configuration) == (0, FOUNDERS)


def write(book: Book, records: list[wal.Record]) -> None:
    array, keep = wal.records_array(records)
    book.write(array, len(records), 1, wal.HEADER_BYTES, wal.group_array())
    del keep
