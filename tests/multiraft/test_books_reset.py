"""A snapshot's configuration is the base of the log that begins behind it, also after a restart."""

from nodedb_node.multiraft import books
from nodedb_node.native import wal
from nodedb_node.native.wal import Book
from nodedb_node.raft import configuration as configurations
from nodedb_node.raft.messages import NodeNumber, Reset

FOUNDERS = configurations.founding([NodeNumber(1), NodeNumber(2)])
LATER = configurations.founding([NodeNumber(1), NodeNumber(2), NodeNumber(3)])


def test_the_configuration_of_an_installed_snapshot_takes_the_place_of_the_old_one() -> None:
    carried = books.Carried(configuration=configurations.encode(FOUNDERS))
    records = books.beginning(5, carried, 0, 0)
    records += books.written(5, Reset(50, 3, False, 40, configurations.encode(LATER)))
    array, keep = wal.records_array(records)
    with Book() as book:
        book.write(array, len(records), 1, wal.HEADER_BYTES, wal.group_array())
        restored = books.restored(5, book, 50, True)
    del keep
    assert (restored.mark_index, restored.config_index, restored.configuration) == (50, 40, LATER)
