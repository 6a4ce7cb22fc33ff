"""Every message has a handler, survives its encoding, and cannot hurt whatever it holds."""

import typing

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodedb_node.ids import NodeNumber
from nodedb_node.raft import configuration as configurations
from nodedb_node.raft.core import HANDLERS
from nodedb_node.raft.messages import (
    CONFIG,
    DATA,
    ENTRY_BYTES_MAX,
    TERM_MAX,
    AppendEntries,
    AppendResponse,
    Configuration,
    Entry,
    InstallSnapshot,
    Message,
    RequestVote,
    Role,
    SnapshotResponse,
    TimeoutNow,
    VoteResponse,
)
from tests.raft.group import Group, header

MEMBERS = typing.get_args(Message)


def test_every_message_has_a_handler() -> None:
    assert set(HANDLERS) == set(MEMBERS)


def test_tags_are_unique_and_headers_alike() -> None:
    tags = [member.__struct_config__.tag for member in MEMBERS]
    assert sorted(tags) == list(range(1, len(MEMBERS) + 1))
    assert len({member.__struct_fields__[:6] for member in MEMBERS}) == 1


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.__name__)
def test_messages_survive_their_encoding(member: type) -> None:
    samples = {int: 7, bool: True, bytes: b"x"}
    hints = typing.get_type_hints(member)
    values = {
        name: samples.get(getattr(hints[name], "__supertype__", hints[name]), ()) for name in member.__struct_fields__
    }
    if member is AppendEntries:
        values |= {"runs": ((3, 2), (5, 4)), "entries": [Entry(2, 1, 3, b"abc")]}
    message = member(**values)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Message) == message


SMALL = st.integers(-1, 8)
NODE = st.integers(0, 4)
HEADER = {"group": st.just(1), "sender": NODE, "sender_replica": st.integers(0, 2), "receiver": st.just(1)}
HEADER |= {"receiver_replica": st.integers(0, 1), "term": SMALL}
ENTRY = st.builds(Entry, term=SMALL, kind=st.integers(0, 3), size_bytes=st.integers(-1, 5), data=st.binary(max_size=3))
ANY = st.one_of(
    st.builds(RequestVote, **HEADER, request=SMALL, last_index=SMALL, last_term=SMALL),
    st.builds(VoteResponse, **HEADER, request=SMALL, removed=st.booleans()),
    st.builds(
        AppendEntries,
        **HEADER,
        request=SMALL,
        prev_index=SMALL,
        prev_term=SMALL,
        last_index=SMALL,
        commit=SMALL,
        acked=SMALL,
        entries=st.lists(ENTRY, max_size=3),
    ),
    st.builds(AppendResponse, **HEADER, request=SMALL, index=SMALL, hint_term=SMALL, hint_index=SMALL),
    st.builds(TimeoutNow, **HEADER),
    st.builds(
        InstallSnapshot,
        **HEADER,
        request=SMALL,
        snapshot_index=SMALL,
        snapshot_term=SMALL,
        config_index=SMALL,
        configuration=st.binary(max_size=8),
    ),
    st.builds(SnapshotResponse, **HEADER, request=SMALL, index=SMALL),
)


@settings(max_examples=300, deadline=None)
@given(st.booleans(), st.lists(ANY, max_size=12))
def test_no_message_is_fatal(leading: bool, messages: list[Message]) -> None:
    """Stale, foreign, contradictory, malformed: dropped, refused, or the group halts with a reason. Invariants hold."""
    group = Group(3)
    group.elect(1 if leading else 2)
    group.propose(1 if leading else 2, "a")
    group.settle()
    for message in messages:
        group[1].step(group.now_us, message)
        group[1].check_invariants()
        group[1].take_ready()
        group[1].check_invariants()


def wire(message: Message) -> Message:
    """As it comes out of a decoder: integers up to 64 bits, and of Any whatever was there."""
    return typing.cast(Message, msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Message))


def append(*entries: Entry, term: int = 1, prev: tuple[int, int] = (1, 1)) -> AppendEntries:
    """From node 1 to node 3."""
    return AppendEntries(*header(1, 3, term), 50, *prev, prev[0] + len(entries), 0, 0, (), entries)


def led() -> Group:
    """1 leads {1, 2, 3} in term 1, with one entry."""
    group = Group(3)
    group.elect(1)
    group.take(3)
    return group


def is_dropped(group: Group, message: Message) -> bool:
    """Nothing of it was taken, and nothing is answered."""
    raft = group[3]
    before = (raft.drops, raft.term, raft.leader, raft.log.last_index, raft.commit, len(raft.configs))
    raft.step(group.now_us, wire(message))
    group.check(3)
    after = (raft.drops, raft.term, raft.leader, raft.log.last_index, raft.commit, len(raft.configs))
    return after == (before[0] + 1, *before[1:]) and raft.take_ready() is None and not raft.halted


@pytest.mark.parametrize("data", [None, "x", 5, [1]], ids=repr)
def test_a_configuration_that_is_no_bytes_stops_the_group_not_the_worker(data: typing.Any) -> None:
    group = led()
    group[3].step(group.now_us, wire(append(Entry(1, CONFIG, 1, data))))
    assert group[3].halted and group[3].log.last_index == 1


def test_a_configuration_without_voters_is_not_taken() -> None:
    """Nobody is a majority of nobody: the replica would elect itself with no votes."""
    nobody = Entry(1, CONFIG, 5, configurations.encode(Configuration()))
    group = led()
    group[3].step(group.now_us, wire(append(nobody)))
    assert group[3].halted and group[3].log.last_index == 1
    group.crash(3)
    disk = group.replicas[3].disk
    restored = disk.restored(entries=[*disk.entries, nobody])
    assert group._start(3, 0, disk, restored).raft.halted, "nor found in the log"


@pytest.mark.parametrize("size_bytes", [-1, ENTRY_BYTES_MAX + 1, 1 << 63, (1 << 64) - 1])
def test_an_entry_of_a_size_that_no_entry_has_is_dropped(size_bytes: int) -> None:
    """The log keeps a running total: it ran over when half of the entries were taken."""
    entry = Entry(1, DATA, size_bytes, b"x")
    assert is_dropped(led(), append(Entry(1, DATA, 1, b"x"), entry, entry))


@pytest.mark.parametrize(
    "message",
    [
        append(Entry(0, DATA, 1, b"x"), prev=(0, 0)),
        append(Entry(2, DATA, 1, b"x"), Entry(1, DATA, 1, b"x"), term=2),
        append(Entry(2, DATA, 1, b"x")),
        append(prev=(1, 0)),
        append(prev=(0, 1)),
        append(term=0, prev=(0, 0)),
    ],
    ids=["zero", "falling", "of a term to come", "zero before", "nothing before", "of no term"],
)
def test_terms_of_entries_begin_with_one_and_rise_to_the_append_s(message: AppendEntries) -> None:
    """An entry of term 0 was taken into an empty log; compacted, it kept the next start from its mark."""
    group = Group(3)
    assert is_dropped(group, message)
    if message.term == 1:
        assert is_dropped(led(), message)


@pytest.mark.parametrize("term", [TERM_MAX + 1, (1 << 64) - 1])
def test_a_term_near_the_end_of_numbers_is_not_believed(term: int) -> None:
    """It would be recorded, and the own next term, one more, could not be: not after a restart either."""
    group = led()
    row = (1, 9, 9, False, True)
    for message in (
        RequestVote(*header(1, 3, term), *row),
        VoteResponse(*header(1, 3, term), 1, False, False),
        append(term=term),
        AppendResponse(*header(1, 3, term), 1, True, 1),
        TimeoutNow(*header(1, 3, term)),
        InstallSnapshot(*header(1, 3, term), 1, 5, 1, 0, b""),
        SnapshotResponse(*header(1, 3, term), 1, True, 1),
    ):
        assert is_dropped(group, message), message
    group[1].lane_exception(group.now_us, NodeNumber(3), term)
    assert group[1].role == Role.LEADER and group[1].term == 1
