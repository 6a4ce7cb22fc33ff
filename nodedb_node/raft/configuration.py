"""Configurations as values: what a change makes of one, what may follow one, and how they are written.

Invariant: `check` holds for every configuration that is in force anywhere. A change that touches voters goes through a
joint configuration, one that does not is a single step. Which replica holds which configuration is membership's.
"""

from typing import Any

import msgspec

from nodedb_node.errors import UNREADABLE
from nodedb_node.ids import NodeNumber
from nodedb_node.raft.messages import ConfigChange, Configuration, LogIndex, Member, ReplicaId

MEMBERS_MAX = 64  # of all roles; a configuration is sent whole, and quorums are computed over all voters

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Configuration)


def encode(configuration: Configuration) -> bytes:
    """The bytes of a CONFIG entry."""
    return _encoder.encode(configuration)


def decode(data: bytes) -> Configuration | None:
    """None: these bytes are not a configuration, or one that breaks the rules. The empty one, with which a new member
    begins, keeps them; checkpoints may hold it."""
    try:
        configuration = _decoder.decode(data)
    except UNREADABLE:
        return None
    return None if fault(configuration) else configuration


def decode_entry(data: Any) -> Configuration | None:
    """Of a CONFIG entry, whose data may be anything: it has voters, as nobody would be a majority of nobody."""
    configuration = decode(data) if isinstance(data, bytes) else None
    return configuration if configuration and configuration.voters else None


def founding(voters: list[NodeNumber]) -> Configuration:
    """The first configuration of a group."""
    return Configuration(voters=tuple(Member(node) for node in sorted(voters)))


def members(configuration: Configuration) -> dict[NodeNumber, ReplicaId]:
    """Every replica of the configuration, of any role, in order of nodes."""
    rows = configuration.voters + configuration.outgoing + configuration.learners + configuration.observers
    return dict(sorted((member.node, member.replica) for member in rows))


def fault(configuration: Configuration) -> str:
    """What is wrong with it; empty = nothing."""
    parts = (configuration.voters, configuration.outgoing, configuration.learners, configuration.observers)
    if any(list(part) != sorted(part) or len({member.node for member in part}) != len(part) for part in parts):
        return "members are not in order or twice in one role"
    if not configuration.voters and (configuration.outgoing or configuration.learners or configuration.observers):
        return "no voters"
    current = [member.node for part in (parts[0], parts[2], parts[3]) for member in part]
    if len(set(current)) != len(current):
        return "a node with two roles"
    pairs = {member for part in parts for member in part}
    if len({member.node for member in pairs}) != len(pairs):
        return "a node with two replicas"
    if {member.node for member in configuration.outgoing} & {member.node for member in configuration.observers}:
        return "a voter cannot become an observer"
    return "too many members" if len(pairs) > MEMBERS_MAX else ""


def changed(configuration: Configuration, change: ConfigChange, index: LogIndex) -> Configuration | str:
    """The configuration of entry `index` that carries out the change: joint when voters change; or why not."""
    assert not configuration.outgoing, "one change at a time"
    assert index > 0
    voters, learners, observers = (
        {member.node: member for member in part}
        for part in (configuration.voters, configuration.learners, configuration.observers)
    )
    added = (*change.add_learners, *change.add_observers)
    named = (*added, *change.promote, *change.demote, *change.remove)
    if not named or len(set(named)) != len(named) or min(named) < 1:
        return "a change names each node once, and at least one"
    present = voters.keys() | learners.keys() | observers.keys()
    if set(added) & present:
        return "already a member: remove it first"
    if not set(change.promote) <= learners.keys():
        return "only a learner can become a voter"
    if not set(change.demote) <= voters.keys():
        return "only a voter can become a learner"
    if not set(change.remove) <= present:
        return "not a member"
    for node in change.remove:
        for part in (voters, learners, observers):
            part.pop(node, None)
    learners |= {node: Member(node, ReplicaId(index)) for node in change.add_learners}
    observers |= {node: Member(node, ReplicaId(index)) for node in change.add_observers}
    voters |= {node: learners.pop(node) for node in change.promote}
    learners |= {node: voters.pop(node) for node in change.demote}
    new = Configuration(_row(voters), (), _row(learners), _row(observers))
    if new.voters != configuration.voters:
        new = msgspec.structs.replace(new, outgoing=configuration.voters)
    return fault(new) or new


def final(configuration: Configuration) -> Configuration:
    """What a joint configuration ends in (thesis, 4.3)."""
    assert configuration.outgoing
    return msgspec.structs.replace(configuration, outgoing=())


def _row(part: dict[NodeNumber, Member]) -> tuple[Member, ...]:
    return tuple(sorted(part.values()))
