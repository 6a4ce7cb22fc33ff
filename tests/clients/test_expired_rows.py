"""Rows whose time has come are absent to every command, deleted or not; scans and the internal commands."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.command_harness import Harness

BEFORE, AFTER = 1_000_000, 2_000_000
KEY, OTHER = b"{t}k", b"{t}other"


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    with Harness(tmp_path) as opened:
        opened.run(b"SET", KEY, b"12345", b"PXAT", b"1500000", now_ms=BEFORE)
        yield opened


@pytest.mark.parametrize(
    ("argv", "reply", "value"),
    [
        ((b"GET", KEY), b"$-1\r\n", None),
        ((b"APPEND", KEY, b"a"), b":1\r\n", b"a"),
        ((b"SETRANGE", KEY, b"2", b"b"), b":3\r\n", b"\0\0b"),
        ((b"SETBIT", KEY, b"9", b"1"), b":0\r\n", b"\0\x40"),
        ((b"BITFIELD", KEY, b"INCRBY", b"u8", b"0", b"3"), b"*1\r\n:3\r\n", b"\x03"),
        ((b"INCR", KEY), b":1\r\n", b"1"),
        ((b"INCRBYFLOAT", KEY, b"0.5"), b"$3\r\n0.5\r\n", b"0.5"),
        ((b"GETSET", KEY, b"n"), b"$-1\r\n", b"n"),
        ((b"GETDEL", KEY), b"$-1\r\n", None),
        ((b"SET", KEY, b"n", b"KEEPTTL"), b"+OK\r\n", b"n"),
        ((b"SET", KEY, b"n", b"XX"), b"$-1\r\n", None),
        ((b"SETNX", KEY, b"n"), b":1\r\n", b"n"),
        ((b"MSETNX", KEY, b"n", OTHER, b"o"), b":1\r\n", b"n"),
        ((b"DEL", KEY), b":0\r\n", None),
        ((b"EXPIRE", KEY, b"100"), b":0\r\n", None),
        ((b"PERSIST", KEY), b":0\r\n", None),
        ((b"RENAME", KEY, OTHER), b"-ERR no such key\r\n", None),
        ((b"COPY", KEY, OTHER), b":0\r\n", None),
        ((b"BITOP", b"NOT", OTHER, KEY), b":0\r\n", None),
        ((b"TTL", KEY), b":-2\r\n", None),
        ((b"EXISTS", KEY), b":0\r\n", None),
    ],
)
def test_a_write_finds_no_row(harness: Harness, argv: tuple[bytes, ...], reply: bytes, value: bytes | None) -> None:
    assert harness.run(*argv, now_ms=AFTER) == reply
    expected = b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value)
    assert harness.run(b"GET", KEY, now_ms=AFTER) == expected
    assert harness.run(b"PTTL", KEY, now_ms=AFTER) == (b":-2\r\n" if value is None else b":-1\r\n")


def test_an_expiry_delete_applies_only_to_the_expiry_it_saw(harness: Harness) -> None:
    assert harness.run(b"nd.expire", KEY, b"1500000", now_ms=BEFORE) == b":0\r\n"  # not due by the entry's stamp
    assert harness.run(b"nd.expire", KEY, b"1400000", now_ms=AFTER) == b":0\r\n"  # has another one by now
    assert harness.run(b"nd.dbsize", now_ms=AFTER) == b":1\r\n"
    assert harness.run(b"nd.expire", KEY, b"1500000", now_ms=AFTER) == b":1\r\n"
    assert harness.run(b"nd.dbsize", now_ms=AFTER) == b":0\r\n"
    harness.run(b"SET", KEY, b"kept")
    assert harness.run(b"nd.expire", KEY, b"0", now_ms=AFTER) == b":0\r\n"


def scan(harness: Harness, *options: bytes) -> list[bytes]:
    found, cursor = [], b"0"
    for _ in range(10_000):
        lines = harness.run(b"nd.scan", cursor, *options, now_ms=AFTER).split(b"\r\n")
        cursor = lines[2]
        found += lines[5::2]
        if cursor == b"0":
            return found
    raise AssertionError("the scan does not end")


@pytest.mark.parametrize("count", [b"1", b"7", b"100000"])
def test_a_scan_meets_every_row_once(harness: Harness, count: bytes) -> None:
    names = {b"key:%d" % i for i in range(300)} | {b"{same}%d" % i for i in range(50)}
    for name in names:
        harness.run(b"SET", name, b"v")
    found = scan(harness, b"COUNT", count)
    assert sorted(found) == sorted(names)  # each once; the expired row not at all
    assert set(scan(harness, b"COUNT", count, b"MATCH", b"{same}*1")) == {b"{same}%d" % i for i in (1, 11, 21, 31, 41)}
    assert scan(harness, b"COUNT", count, b"TYPE", b"list") == []
    slot = b"%d" % harness.slot_of(b"{same}")
    assert set(scan(harness, b"COUNT", count, b"nd.slot", slot)) == {b"{same}%d" % i for i in range(50)}


def test_a_random_key_is_a_live_one(harness: Harness) -> None:
    assert harness.run(b"nd.randomkey", now_ms=AFTER) == b"*2\r\n:1\r\n$-1\r\n"
    harness.run(b"SET", b"a", b"1")
    harness.run(b"SET", b"b", b"1")
    seeds = [number * 0x9E3779B97F4A7C15 % (1 << 64) for number in range(99)]
    drawn = {harness.run(b"nd.randomkey", now_ms=AFTER, seed=seed) for seed in seeds}
    assert drawn == {b"*2\r\n:3\r\n$1\r\na\r\n", b"*2\r\n:3\r\n$1\r\nb\r\n"}
    assert harness.run(b"nd.flush") == b"+OK\r\n"
    assert harness.run(b"nd.randomkey", now_ms=AFTER) == b"*2\r\n:0\r\n$-1\r\n"
