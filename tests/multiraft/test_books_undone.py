"""A configuration that was truncated is not believed at the next start, whatever else of the log has died."""

from nodedb_node.ids import GroupId, NodeNumber
from nodedb_node.multiraft import books
from nodedb_node.native import wal
from nodedb_node.native.wal import Book, Record
from nodedb_node.raft import configuration as configurations

BASE = configurations.encode(configurations.founding([NodeNumber(1), NodeNumber(2), NodeNumber(3)]))
UNDONE = configurations.encode(configurations.founding([NodeNumber(1), NodeNumber(4), NodeNumber(5)]))
GROUP = GroupId(3)


def entry(index: int, term: int, kind: int = wal.DATA, data: bytes = b"x") -> Record:
    return Record(wal.ENTRY, GROUP, term, index, data, kind)


def test_an_undone_configuration_is_not_the_base_when_the_real_one_was_in_a_segment_that_died() -> None:
    """Found by the simulator (mixed, 21): a restart took the truncated one for the base, and led by it."""
    surviving = [
        entry(10, 6),
        entry(11, 6, wal.MEMBERS, UNDONE),
        Record(wal.TRUNCATE, GROUP, 0, 11),
        entry(11, 8),
        entry(12, 8),
        Record(wal.COMPACT, GROUP, 8, 12),
        Record(wal.REPLICA, GROUP, 0, 0, b"\1").rewritten(),
        Record(wal.CONFIG, GROUP, 0, 4, BASE).rewritten(),
        Record(wal.COMPACT, GROUP, 8, 12).rewritten(),
        books.written(GROUP, books.HardState(8, NodeNumber(0), books.ReplicaId(0)))[0].rewritten(),
    ]
    array, keep = wal.records_array(surviving)
    with Book() as book:
        book.write(array, len(surviving), 1, wal.HEADER_BYTES, wal.group_array())
        restored = books.restored(GROUP, book, 12, promised=True)
    del keep
    assert (restored.mark_index, restored.config_index) == (12, 4)
    assert configurations.encode(restored.configuration) == BASE
