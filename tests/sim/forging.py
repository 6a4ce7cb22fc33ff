"""Messages that no correct peer sends: each must be dropped, whatever the replica that gets it is at.

Invariant: none of them could rightly be believed, so they harm only a receiver that trusts what it is sent. They carry
no acknowledgement and no vote that fits; the checkers need not be told of them.
"""

from typing import Any

from nodedb_node.raft import configuration as configurations
from nodedb_node.raft.messages import (
    DATA,
    TERM_MAX,
    AppendEntries,
    AppendResponse,
    Configuration,
    Entry,
    InstallSnapshot,
    RequestVote,
    SnapshotResponse,
    TimeoutNow,
    VoteResponse,
)

FAR = 1 << 40  # beyond every index and request of a run


def nonsense(core: Any, sender: int) -> list[Any]:
    """One of each kind, from a node to the replica that `core` is."""
    replica = core.members.get(sender, 0)
    to, term = (core.node, core.replica), core.term
    row = (core.group, sender, replica, *to, term)
    entry = Entry(term, DATA, 1, b"?")
    empty = configurations.encode(Configuration())
    return [
        AppendEntries(*row, FAR, 7, term, 9, 0, 0, (), (entry,)),  # one entry, said to be two
        AppendEntries(*row, FAR, 7, term, 8, 0, 0, (), (Entry(term + 1, DATA, 1, b"?"),)),  # of a term to come
        AppendResponse(*row, FAR, False, 3),
        InstallSnapshot(*row, FAR, 5, term, 6, empty, 1),  # a configuration behind its end
        SnapshotResponse(*row, FAR, False, 0),
        TimeoutNow(*row[:5], term + 1),
        RequestVote(*row[:5], TERM_MAX + 1, FAR, FAR, term, False, True),  # after which there is no next
        VoteResponse(*row, FAR, False, True),
        RequestVote(*row[:4], core.replica + FAR, term, FAR, FAR, term, True, False),
        AppendResponse(core.group, sender + 1, 0, *to, term, 1, False, 0),  # under another's name than the lane's
    ]


def false_votes(core: Any, sender: int) -> list[Any]:
    """For a candidate: a vote of the term before, one of a replica that never was, one of a replica that is no more."""
    known = core.members.get(sender, 0)
    row, end = (core.node, core.replica), (core.request, False, True)
    return [
        VoteResponse(core.group, sender, known, *row, core.term - 1, *end),
        VoteResponse(core.group, sender, known + 1, *row, core.term, *end),
        *[VoteResponse(core.group, sender, known - 1, *row, core.term, *end) for _ in range(known > 0)],
    ]


def from_itself(core: Any) -> Any:
    """What its own lane would bring, if it had one."""
    return AppendResponse(core.group, core.node, core.replica, core.node, core.replica, core.term, 1, False, 0)
