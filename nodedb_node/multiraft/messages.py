"""The words between all groups of two processes (the lane's heartbeat), and what MultiRaft hands out per turn.

Invariant: a heartbeat names groups only where something changed since the epoch that the peer acknowledged; an idle
lane's heartbeat has the same few bytes however many groups it speaks for. Nothing here decides anything.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, TypeAlias

import msgspec

from nodedb_node.ids import GroupId, NodeNumber
from nodedb_node.multiraft.snapshot import messages as snapshot
from nodedb_node.multiraft.snapshot.work import Work
from nodedb_node.raft.messages import (
    Event,
    LogIndex,
    Message,
    Micros,
    ReadFailure,
    ReadState,
    Record,
    Role,
    Term,
)


class Doubt(IntEnum):
    """Why a group of a heartbeat's set does not count for its leader."""

    ABSENT = 1  # no replica of it here
    QUARANTINED = 2
    TERM = 3  # it is at another term here


class LaneHeartbeat(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=16):
    """Of a process to a peer's: it lives, and leads these groups. Delta from `base` to `epoch`; base 0 = all of them.

    The acknowledgement is the promise it asks for: for promise_us from its arrival the receiver votes for nobody else
    in a group of the set that is at the set's term.
    """

    sender: NodeNumber
    generation: int  # of the sending process
    number: int  # rises by one
    epoch: int
    base: int
    promise_us: Micros
    bound: int = 0  # the sender's HLC bound, opaque
    present: tuple[tuple[GroupId, Term], ...] = ()
    absent: tuple[GroupId, ...] = ()


class LaneAck(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=17):
    """The heartbeat `number` of `to_generation` arrived. full: its base is not known here, the set counts for nothing
    until all of it is sent again. doubts: groups of the set at `epoch` that do not count, why, and the term here."""

    sender: NodeNumber
    generation: int
    to_generation: int
    number: int
    epoch: int
    full: bool = False
    bound: int = 0
    doubts: tuple[tuple[GroupId, Doubt, Term], ...] = ()
    promise_us: Micros = 0  # for how long, if the receiver's own fence after a start is shorter than what was asked for


LaneMessage: TypeAlias = Message | LaneHeartbeat | LaneAck


class GroupRecord(msgspec.Struct, frozen=True, gc=False):
    """One record of one group, in the order in which all must be written."""

    group: GroupId
    record: Record


class Outcome(IntEnum):
    """How a wait for an applied index ended."""

    REACHED = 1
    TIMED_OUT = 2
    GONE = 3


class Turn(msgspec.Struct, frozen=True, gc=False):
    """One turn's outputs of all groups.

    Persist `records` in this order, in as few appends as they fit into; the turn is durable with the last. Send `free`
    at once and `after` when this turn is durable, each peer's messages as one frame. A turn without records is durable
    when the one before it is. `bulk` goes out on the bulk lanes, in any order with the rest; `work` is what snapshots
    want of disk and store (snapshot/work.py).
    """

    number: int
    records: Sequence[GroupRecord]
    free: dict[NodeNumber, list[LaneMessage]]
    after: dict[NodeNumber, list[LaneMessage]]
    committed: Sequence[tuple[GroupId, LogIndex, LogIndex]]
    reads: Sequence[tuple[GroupId, ReadState]]
    read_failures: Sequence[tuple[GroupId, ReadFailure]]
    bulk: dict[NodeNumber, list[snapshot.Message]]
    work: Sequence[Work]
    events: Sequence[tuple[GroupId, Event]]
    waits: Sequence[tuple[Any, Outcome]]  # by what was given to wait()


class Reason(IntEnum):
    """Why a group does not move."""

    MOVES = 0
    HALTED = 1
    QUARANTINED = 2
    NO_LEADER = 3
    DISK = 4
    APPLYING = 5


REASON_TEXT = {
    Reason.MOVES: "",
    Reason.HALTED: "halted: see the node's log",
    Reason.QUARANTINED: "quarantined: no vote until a leader has refilled it and a majority without it has committed",
    Reason.NO_LEADER: "no leader: too few voters answer; see those that are down or in quarantine",
    Reason.DISK: "the disk does not answer",
    Reason.APPLYING: "committed entries wait to be applied",
}


class GroupStatus(msgspec.Struct, frozen=True):
    """What a status page says of a group here."""

    group: GroupId
    role: Role
    term: Term
    leader: NodeNumber
    commit: LogIndex
    applied: LogIndex
    last: LogIndex
    lag: dict[NodeNumber, int]  # leader: entries that each member has not acknowledged
    reason: Reason
