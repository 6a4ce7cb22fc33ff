"""Bitmap and range commands against a small model, integers made of bits: for machines without a redis-server."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.clients.command_harness import Harness

VALUES = st.binary(max_size=40)
ENDS = st.integers(-50, 50)
FIELDS = st.tuples(st.booleans(), st.integers(1, 63), st.integers(0, 300), st.integers(-(1 << 62), 1 << 62))


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with Harness(tmp_path_factory.mktemp("store")) as opened:
        yield opened


def text(number: int) -> bytes:
    return b"%d" % number


def bits_of(value: bytes) -> list[int]:
    return [byte >> (7 - i) & 1 for byte in value for i in range(8)]


def clipped(length: int, start: int, end: int) -> range:
    """Positions from start to end, both included, negative ones counted from the end."""
    first = max(start + length, 0) if start < 0 else start
    last = max(end + length, 0) if end < 0 else end
    return range(first, min(last, length - 1) + 1)


def forward(length: int, start: int, end: int) -> range:
    """The same; nothing when both are negative and in the wrong order (BITPOS does not look at this)."""
    return range(0) if start < 0 and end < 0 and start > end else clipped(length, start, end)


@given(VALUES, ENDS, ENDS)
@settings(max_examples=300, deadline=None)
def test_getrange(harness: Harness, value: bytes, start: int, end: int) -> None:
    harness.run(b"SET", b"k", value)
    expected = bytes(value[i] for i in forward(len(value), start, end))
    assert harness.run(b"GETRANGE", b"k", text(start), text(end)) == b"$%d\r\n%s\r\n" % (len(expected), expected)


@given(VALUES, st.integers(0, 60), st.binary(max_size=20))
@settings(max_examples=300, deadline=None)
def test_setrange(harness: Harness, value: bytes, offset: int, patch: bytes) -> None:
    harness.run(b"SET", b"k", value)
    padded = value.ljust(offset, b"\0")
    expected = padded[:offset] + patch + padded[offset + len(patch) :] if patch else value
    assert harness.run(b"SETRANGE", b"k", text(offset), patch) == b":%d\r\n" % len(expected)
    assert harness.run(b"GET", b"k") == b"$%d\r\n%s\r\n" % (len(expected), expected)


@given(VALUES, ENDS, ENDS, st.booleans())
@settings(max_examples=300, deadline=None)
def test_bitcount(harness: Harness, value: bytes, start: int, end: int, by_bit: bool) -> None:
    harness.run(b"SET", b"k", value)
    units = bits_of(value) if by_bit else [sum(bits_of(bytes([byte]))) for byte in value]
    expected = sum(units[i] for i in forward(len(units), start, end))
    unit = b"BIT" if by_bit else b"BYTE"
    assert harness.run(b"BITCOUNT", b"k", text(start), text(end), unit) == b":%d\r\n" % expected


@given(VALUES, st.integers(0, 1), ENDS, ENDS, st.booleans())
@settings(max_examples=300, deadline=None)
def test_bitpos(harness: Harness, value: bytes, bit: int, start: int, end: int, by_bit: bool) -> None:
    harness.run(b"SET", b"k", value)
    bits, per = bits_of(value), 1 if by_bit else 8
    units = clipped(len(bits) // per, start, end)
    positions = (position for unit in units for position in range(unit * per, unit * per + per))
    expected = next((position for position in positions if bits[position] == bit), -1)
    unit = b"BIT" if by_bit else b"BYTE"
    assert harness.run(b"BITPOS", b"k", text(bit), text(start), text(end), unit) == b":%d\r\n" % expected


def fitted(number: int, signed: bool, width: int, rule: bytes) -> int | None:
    low, high = (-(1 << width - 1), (1 << width - 1) - 1) if signed else (0, (1 << width) - 1)
    if low <= number <= high:
        return number
    if rule == b"FAIL":
        return None
    if rule == b"SAT":
        return high if number > high else low
    return (number - low) % (1 << width) + low


@given(VALUES, st.sampled_from([b"WRAP", b"SAT", b"FAIL"]), st.lists(FIELDS, min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_bitfield_incrby(harness: Harness, value: bytes, rule: bytes, fields: list[tuple[bool, int, int, int]]) -> None:
    harness.run(b"SET", b"k", value)
    words, replies = [b"OVERFLOW", rule], []
    length = max(len(value), *((offset + width + 7) // 8 for _, width, offset, _ in fields))
    number = int.from_bytes(value.ljust(length, b"\0"))
    for signed, width, offset, by in fields:
        shift, mask = length * 8 - offset - width, (1 << width) - 1
        raw = number >> shift & mask
        old = raw - (1 << width) if signed and raw >> width - 1 else raw
        new = fitted(old + by, signed, width, rule)
        replies.append(b"$-1\r\n" if new is None else b":%d\r\n" % new)
        if new is not None:
            number = number & ~(mask << shift) | (new & mask) << shift
        words += [b"INCRBY", b"%c%d" % (b"ui"[signed], width), text(offset), text(by)]
    assert harness.run(b"BITFIELD", b"k", *words) == b"*%d\r\n%s" % (len(fields), b"".join(replies))
    assert harness.run(b"GET", b"k") == b"$%d\r\n%s\r\n" % (length, number.to_bytes(length))
