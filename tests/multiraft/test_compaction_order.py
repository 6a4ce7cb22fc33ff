"""What compaction writes anew shares an append with what is new: the new must be the last word."""

from nodedb_node.multiraft.books import written
from nodedb_node.multiraft.log import Rows, _joined
from nodedb_node.native import wal
from nodedb_node.native.wal import Book
from nodedb_node.raft.messages import HardState, NodeNumber, ReplicaId


def test_a_vote_in_the_append_of_a_compaction_is_not_undone_by_it() -> None:
    (old,) = written(3, HardState(7, NodeNumber(0), ReplicaId(0)))
    (new,) = written(3, HardState(8, NodeNumber(2), ReplicaId(0)))
    array, keep = wal.records_array([new])
    joined = _joined(Rows(array, 1, keep), [old.rewritten()])
    opened = [wal.record_of(joined.array[i]) for i in range(joined.n)]
    log = [record if record.type != wal.REWRITE else old for record in opened]
    plain, kept = wal.records_array(log)
    with Book() as book:
        book.write(plain, len(log), 1, wal.HEADER_BYTES, wal.group_array())
        assert book.group(3).hard_state == (8, 2, 0)
    del kept
