"""Greetings, statuses, envelopes, wrapped payloads: golden bytes, versions, what is refused, any bytes."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodedb_node.ids import ClusterId, NodeId, Process, VShard
from nodedb_node.native.frame import BadBytes
from nodedb_node.rpc import envelope, hello, messages, status, versioned
from nodedb_node.rpc.envelope import Envelope, EpochFence
from nodedb_node.rpc.hello import Hello, Local, Refusal, Why, decode_hello, judge, negotiate
from tests.rpc.test_frame import golden

CLUSTER, ALICE, BOB = ClusterId("c" * 32), NodeId("a" * 40), NodeId("b" * 40)


def local(**other: object) -> Local:
    fields = {"cluster_id": CLUSTER, "node_id": ALICE, "generation": 3, "nonce": b"n" * 16, "lane": Process(1)}
    return Local(**{**fields, **other})  # type: ignore[arg-type]


def bobs(**other: object) -> Hello:
    return local(node_id=BOB, **other).hello(Process(0), bulk=False)


def test_golden_hello() -> None:
    raw = hello.encode(local(software="0.1").hello(Process(2), bulk=True))
    assert raw == golden("hello")
    assert decode_hello(raw) == local(software="0.1").hello(Process(2), bulk=True)


STATUSES: list[status.AnyStatus] = [
    status.NotLeader(BOB, 7),
    status.WrongOwner(12, None),
    status.StaleEpoch(5),
    status.Overloaded(20, "log queue"),
    status.DeadlineExceeded(),
    status.Unsupported(99),
    status.Internal("disk"),
    status.OutcomeUnknown("session ended"),
]


@pytest.mark.parametrize("one", STATUSES, ids=lambda one: type(one).__name__)
def test_golden_status(one: status.AnyStatus) -> None:
    assert status.encode(one) == golden(f"status.{type(one).__name__}")
    assert status.decode(status.encode(one)) == one


def test_golden_routed() -> None:
    one = Envelope(VShard(1023), 8, 2, 40, b"payload")
    assert envelope.encode(one) == golden("envelope")
    assert envelope.decode(envelope.encode(one)) == one


def test_golden_bulk_and_wrapped() -> None:
    transfer = bytes(range(16))
    opened = messages.BulkOpen(transfer, "snapshot", 1 << 30, b"g1")
    assert messages.encode(opened) == golden("bulk.open")
    assert messages.decode_open(messages.encode(opened)) == opened
    assert messages.encode(messages.BulkAnswer(4096, 8192)) == golden("bulk.answer")
    assert messages.chunk(transfer, 4096, b"data") == golden("bulk.chunk")
    assert messages.decode_chunk(golden("bulk.chunk")) == (transfer, 4096, b"data")
    assert messages.credit(transfer, 1, 2) == golden("bulk.credit")
    assert messages.encode(messages.BulkAbort(transfer, "no space")) == golden("bulk.abort")
    assert versioned.wrap(3, b"row") == golden("versioned")


def test_every_status_says_whether_it_may_be_asked_again() -> None:
    never = {type(one) for one in STATUSES} - {status.Internal, status.OutcomeUnknown}
    assert set(status.NEVER_APPENDED) == never


@given(st.binary(max_size=64))
def test_any_bytes_are_a_status(raw: bytes) -> None:
    assert isinstance(status.decode(raw), status.Status)


def test_what_a_newer_peer_adds_is_skipped() -> None:
    raw = msgspec.msgpack.encode([*msgspec.to_builtins(bobs(), builtin_types=(bytes,)), "new field", 5])
    assert decode_hello(raw) == bobs()
    assert status.decode(msgspec.msgpack.encode([3, 5, "new"])) == status.StaleEpoch(5)


@pytest.mark.parametrize(
    ("ours", "theirs", "version"),
    [((1, 1), (1, 1), 1), ((1, 3), (2, 5), 3), ((2, 4), (1, 2), 2), ((1, 1), (2, 3), None), ((4, 5), (1, 3), None)],
)
def test_the_highest_common_version(ours: tuple[int, int], theirs: tuple[int, int], version: int | None) -> None:
    found = negotiate(
        local(version_min=ours[0], version_max=ours[1]), bobs(version_min=theirs[0], version_max=theirs[1])
    )
    assert found == version if version else isinstance(found, Refusal) and found.why is Why.VERSION


def test_judging_a_greeting() -> None:
    assert judge(local(), bobs(), BOB, BOB) == 1
    assert judge(local(), bobs(), None, None) == 1
    cases = [
        (bobs(cluster_id=ClusterId("d" * 32)), BOB, None, Why.CLUSTER_MISMATCH),
        (bobs(), ALICE, None, Why.IDENTITY),
        (bobs(), BOB, NodeId("e" * 40), Why.IDENTITY),
    ]
    for peer, certified, dialled, why in cases:
        found = judge(local(), peer, certified, dialled)
        assert isinstance(found, Refusal)
        assert found.why is why


@pytest.mark.parametrize(
    "change",
    [
        {"magic": b"HTTP/1.1"},
        {"version_min": 3, "version_max": 2},
        {"version_min": 0},
        {"nonce": b"short"},
        {"generation": 0},
    ],
)
def test_greetings_of_a_wrong_form(change: dict[str, object]) -> None:
    found = decode_hello(hello.encode(msgspec.structs.replace(bobs(), **change)))
    assert isinstance(found, Refusal)
    assert found.why is Why.GARBLED


@given(st.binary(max_size=200))
def test_any_bytes_are_a_greeting_or_refused(raw: bytes) -> None:
    assert isinstance(decode_hello(raw), Hello | Refusal)


def test_a_claim_does_not_move_the_epoch() -> None:
    fence = EpochFence(5)
    assert fence.judge(4) == status.StaleEpoch(5)
    assert fence.judge(2**63) is None
    assert (fence.current, fence.behind) == (5, 2**63)
    fence.committed(6)
    assert fence.judge(5) == status.StaleEpoch(6)
    with pytest.raises(AssertionError):
        fence.committed(5)


def test_wrapped_payloads() -> None:
    assert versioned.unwrap(versioned.wrap(2, b"x"), 1, 3) == versioned.Versioned(2, b"x")
    with pytest.raises(versioned.UnknownVersion):
        versioned.unwrap(versioned.wrap(4, b"x"), 1, 3)
    for raw in (b"", b"\xd7\0", b"\xd7\0\0\0", b"\xd6\0\1\0", b"\xd7\1\1\0"):
        with pytest.raises(versioned.NotVersioned):
            versioned.unwrap(raw, 1, 3)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_bulk_body_or_bad(raw: bytes) -> None:
    for decode in (messages.decode_open, messages.decode_answer, messages.decode_abort):
        try:
            decode(raw)
        except BadBytes:
            continue
    for fixed in (messages.decode_chunk, messages.decode_credit):
        try:
            fixed(raw)
        except BadBytes:
            continue
