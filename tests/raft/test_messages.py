"""Every message has a handler, survives its encoding, and cannot hurt whatever it holds."""

import typing

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodedb_node.raft.core import HANDLERS
from nodedb_node.raft.messages import (
    AppendEntries,
    AppendResponse,
    Entry,
    InstallSnapshot,
    Message,
    RequestVote,
    SnapshotResponse,
    TimeoutNow,
    VoteResponse,
)
from tests.raft.group import Group

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
