"""What storage writes for Raft's records is what Raft gets back at the next start."""

import pytest

from nodedb_node.ids import GroupId, NodeNumber
from nodedb_node.multiraft import books
from nodedb_node.native import wal
from nodedb_node.native.wal import Book
from nodedb_node.raft import configuration as configurations
from nodedb_node.raft.messages import DATA, Append, Configuration, Entry, Member, ReplicaId, Reset, Restored

OLD = configurations.founding([NodeNumber(1), NodeNumber(2), NodeNumber(3)])
NEW = Configuration(voters=OLD.voters, learners=(Member(NodeNumber(4), ReplicaId(3)),))
GROUP = GroupId(3)


def restored(records: list[wal.Record], applied: int) -> Restored:
    """As of a log that holds these records."""
    array, keep = wal.records_array(records)
    with Book() as book:
        book.write(array, len(records), 1, wal.HEADER_BYTES, wal.group_array())
        result = books.restored(GROUP, book, applied, promised=True)
    del keep
    return result


@pytest.mark.parametrize("keep", [True, False])
def test_a_snapshot_s_configuration_is_the_one_in_force_behind_it(keep: bool) -> None:
    """Found by the simulator (mixed, 1000): the replica went on with the configuration of before, and led by it."""
    begin = books.beginning(GROUP, books.Carried(configuration=configurations.encode(OLD)), 0, 0)
    entries = books.written(GROUP, Append(1, [Entry(1, DATA, 1, b"x") for _ in range(6)]))
    reset = books.written(GROUP, Reset(5, 1, keep, 3, configurations.encode(NEW)))
    result = restored([*begin, *entries, *reset], applied=5)
    assert (result.config_index, result.configuration) == (3, NEW)
    assert (result.mark_index, result.mark_term, len(result.entries)) == (5, 1, 1 if keep else 0)
