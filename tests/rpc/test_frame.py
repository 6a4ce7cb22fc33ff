"""Frames: golden bytes, every cut, limits before memory, what no version sends; appends and entries in C."""

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodedb_node.native.frame import Append, AppendHead, BadBytes, Entry, encode_append
from nodedb_node.rpc.frame import (
    FRAME_BYTES_MAX,
    GREETING_LIMITS,
    LIMITS,
    MESSAGE_BYTES_MAX,
    Flag,
    Frame,
    FrameError,
    FrameReader,
    Kind,
    encode,
    encoded_bytes,
)

GOLDEN = Path(__file__).parent.parent / "golden" / "lane-v1.txt"


def golden(name: str) -> bytes:
    for line in GOLDEN.read_text().splitlines():
        words = line.split()
        if words and words[0] == name:
            return bytes.fromhex("".join(words[1:]))
    raise KeyError(name)


def frame(body: bytes = b"abc", flags: int = Flag.REQUEST, kind: Kind = Kind.QUERY, id: int = 7) -> Frame:
    return Frame(9, flags, kind, id, 250, body)


def test_golden_frame() -> None:
    raw = b"".join(encode(frame()))
    assert raw == golden("frame.request")
    assert FrameReader(Kind.QUERY).feed(raw) == [frame()]


def test_golden_append() -> None:
    head = AppendHead(group=3, term=4, prev_index=10, prev_term=4, commit=9, sequence=77)
    raw = encode_append(head, [Entry(11, 4, 1, b"set a"), Entry(12, 4, 2, b"")])
    assert raw == golden("append")
    decoded = Append(raw)
    assert decoded.head == head
    assert list(decoded) == [Entry(11, 4, 1, b"set a"), Entry(12, 4, 2, b"")]


def test_any_cut_gives_the_same_messages() -> None:
    frames = [frame(b"x" * n, id=n + 1) for n in (0, 1, 300, 5)]
    raw = b"".join(piece for one in frames for piece in encode(one))
    for cut in range(len(raw)):
        reader = FrameReader(Kind.QUERY)
        assert reader.feed(raw[:cut]) + reader.feed(raw[cut:]) == frames
        assert reader.waiting_bytes == 0


def test_more_than_one_scan_of_frames() -> None:
    frames = [frame(b"", id=n + 1) for n in range(1000)]
    assert FrameReader(Kind.QUERY).feed(b"".join(b"".join(encode(one)) for one in frames)) == frames


def test_a_large_message_travels_in_parts() -> None:
    large = frame(b"v" * (FRAME_BYTES_MAX[Kind.LOG] * 2 + 5), Flag.ONEWAY, Kind.LOG, 0)
    pieces = encode(large)
    assert len(pieces) == 6
    assert sum(map(len, pieces)) == encoded_bytes(large)
    reader = FrameReader(Kind.LOG)
    got: list[Frame] = []
    for piece in pieces:
        assert got == []
        got = reader.feed(piece)
    assert got == [large]


def test_a_length_above_the_class_limit_is_refused_from_the_header_alone() -> None:
    for kind in Kind:
        reader = FrameReader(kind)
        with pytest.raises(FrameError):
            reader.feed(struct.pack("<IHBBQI", FRAME_BYTES_MAX[kind] + 1, 9, Flag.REQUEST, kind, 1, 0))
        assert reader.waiting_bytes == 0


def test_before_the_greeting_only_little_is_taken() -> None:
    with pytest.raises(FrameError):
        FrameReader(Kind.CONTROL, GREETING_LIMITS).feed(struct.pack("<IHBBQI", 4097, 1, Flag.REQUEST, 0, 1, 0))
    reader = FrameReader(Kind.CONTROL, GREETING_LIMITS)
    reader.greeted()
    large = Frame(9, Flag.ONEWAY, Kind.CONTROL, 0, 0, b"x" * 5000)
    assert reader.feed(b"".join(encode(large))) == [large]


def test_parts_are_bounded_in_sum() -> None:
    reader = FrameReader(Kind.LOG)
    part = bytes(FRAME_BYTES_MAX[Kind.LOG])
    header = struct.pack("<IHBBQI", len(part), 9, Flag.ONEWAY | Flag.MORE, Kind.LOG, 0, 0)
    with pytest.raises(FrameError):
        for _ in range(MESSAGE_BYTES_MAX[Kind.LOG] // len(part) + 1):
            reader.feed(header + part)


@pytest.mark.parametrize(
    ("flags", "id", "kind"),
    [
        (0, 1, Kind.QUERY),
        (Flag.REQUEST | Flag.REPLY, 1, Kind.QUERY),
        (Flag.REQUEST | Flag.ERROR, 1, Kind.QUERY),
        (64 | Flag.REQUEST, 1, Kind.QUERY),
        (Flag.ONEWAY, 1, Kind.QUERY),
        (Flag.REQUEST, 0, Kind.QUERY),
        (Flag.REQUEST, 1, Kind.LOG),
        (Flag.REQUEST, 1, 4),
    ],
)
def test_what_no_version_sends_ends_the_stream(flags: int, id: int, kind: int) -> None:
    with pytest.raises(FrameError):
        FrameReader(Kind.QUERY).feed(struct.pack("<IHBBQI", 0, 9, flags, kind, id, 0))


def test_parts_of_two_messages_do_not_mix() -> None:
    reader = FrameReader(Kind.QUERY)
    reader.feed(struct.pack("<IHBBQI", 1, 9, Flag.REQUEST | Flag.MORE, Kind.QUERY, 1, 0) + b"a")
    with pytest.raises(FrameError):
        reader.feed(struct.pack("<IHBBQI", 1, 9, Flag.REQUEST, Kind.QUERY, 2, 0) + b"b")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.lists(st.integers(1, 50), max_size=20))
def test_any_bytes_are_frames_or_a_frame_error(raw: bytes, cuts: list[int]) -> None:
    def run(pieces: list[bytes]) -> list[Frame | None]:
        reader, got = FrameReader(Kind.CONTROL), []
        for piece in pieces:
            try:
                got += reader.feed(piece)
            except FrameError:
                return [*got, None]
        return got

    at, pieces = 0, []
    for cut in cuts:
        pieces.append(raw[at : at + cut])
        at += cut
    whole = run([raw])
    # The error comes with the bytes that show it; frames before it in one piece are not handed out with it.
    if None not in whole:
        assert run([*pieces, raw[at:]]) == whole
    else:
        assert run([*pieces, raw[at:]])[-1] is None


frames_st = st.builds(
    Frame,
    type=st.integers(0, 65535),
    flags=st.sampled_from([Flag.REQUEST, Flag.REPLY, Flag.REPLY | Flag.ERROR, Flag.CANCEL]).map(int),
    kind=st.just(Kind.LOG),
    id=st.integers(1, 2**64 - 1),
    deadline_ms=st.integers(0, 2**32 - 1),
    body=st.binary(max_size=100),
)


@given(st.lists(frames_st, max_size=10))
def test_round_trip(frames: list[Frame]) -> None:
    raw = b"".join(piece for one in frames for piece in encode(one))
    assert FrameReader(Kind.LOG).feed(raw) == frames
    assert len(raw) == sum(map(encoded_bytes, frames))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_an_append_or_bad(raw: bytes) -> None:
    try:
        decoded = Append(raw)
    except BadBytes:
        return
    assert encode_append(decoded.head, list(decoded)) == raw


@given(st.lists(st.binary(max_size=60), max_size=20), st.integers(0, 2**40), st.integers(0, 65535))
def test_append_round_trip(payloads: list[bytes], first: int, kind: int) -> None:
    entries = [Entry(first + i, 5, kind, payload) for i, payload in enumerate(payloads)]
    raw = encode_append(AppendHead(1, 5, first, 5, 0), entries)
    assert list(Append(raw)) == entries
    for cut in (0, 1, len(raw) - 1):
        with pytest.raises(BadBytes):
            Append(raw[:cut])
    with pytest.raises(BadBytes):
        Append(raw + b"\0")


def test_limits_are_those_of_the_classes() -> None:
    assert tuple(FRAME_BYTES_MAX[kind] for kind in Kind) == LIMITS
