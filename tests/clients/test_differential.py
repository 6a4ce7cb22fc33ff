"""The command layer answers as redis-server 7.0.15 does, byte for byte (docs/differences.md lists the exceptions)."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import reference
from tests.clients.command_harness import Harness
from tests.clients.differential import KEYS, Command, command, equal
from tests.seeds import chosen

OPTIONS = ("--databases", "1", "--proto-max-bulk-len", "16777216")
SEEDS = ["1", "2", "3", "run"]
COMMANDS = 6000
PIPELINE_MAX = 40


@pytest.fixture(scope="module")
def redis_port() -> Iterator[int]:
    if reference.program() is None:
        pytest.skip("no redis-server, redis-check-rdb or redis-check-aof to compare with")
    with reference.redis_server(*OPTIONS) as port:
        yield port


@pytest.fixture
def redis(redis_port: int) -> Iterator[reference.Connection]:
    with reference.Connection(redis_port) as connection:
        assert b"redis_version:" + reference.VERSION.encode() in connection.run(b"INFO", b"server")
        connection.run(b"FLUSHALL")
        yield connection


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    with Harness(tmp_path) as opened:
        yield opened


def compare(harness: Harness, redis: reference.Connection, commands: list[Command], resp: int) -> None:
    """Same commands, same replies; the first difference is told with what was sent before it."""
    theirs = redis.pipeline(commands)
    for i, (sent, expected) in enumerate(zip(commands, theirs, strict=True)):
        got = harness.run(*sent, now_ms=time.time_ns() // 1_000_000, resp=resp)
        assert equal(sent, got, expected), f"{sent}\nours   {got!r}\ntheirs {expected!r}\nbefore {commands[:i][-5:]}"


@pytest.mark.parametrize("resp", [2, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_random_commands(harness: Harness, redis: reference.Connection, seed: str, resp: int) -> None:
    redis.run(b"HELLO", b"%d" % resp)
    rng = random.Random(chosen(seed))
    sent = 0
    while sent < COMMANDS:
        batch = [command(rng) for _ in range(rng.randint(1, PIPELINE_MAX))]
        compare(harness, redis, batch, resp)
        compare(harness, redis, [(name, key) for key in KEYS for name in (b"GET", b"PEXPIRETIME")], resp)
        sent += len(batch)


ENCODED = [b"0", b"9999", b"10000", b"-1", b"9223372036854775807", b"9223372036854775808", b"01", b"", b"a" * 44]
ENCODED += [b"a" * 45]


@pytest.mark.parametrize("value", ENCODED)
def test_object_of_a_value_set_whole(harness: Harness, redis: reference.Connection, value: bytes) -> None:
    about = [(b"OBJECT", what, key) for what in (b"ENCODING", b"REFCOUNT") for key in (b"k", b"none")]
    compare(harness, redis, [(b"SET", b"k", value), *about, (b"object", b"help"), (b"OBJECT",)], 2)


PATTERNS = [b"*", b"", b"?", b"a*", b"*a", b"*a*b*", b"[abc]", b"[^a]*", b"[a-c]x", b"[c-a]x", b"[a", b"[^", b"["]
PATTERNS += [b"\\*", b"a\\", b"[\\]]", b"[a\\-c]", b"**a**", b"h[ae]llo", b"a?c", b"[a-]x", b"\\", b"[^\\]]", b"[-]"]
TEXTS = [b"", b"a", b"b", b"ab", b"aab", b"abc", b"axb", b"bx", b"cx", b"*", b"a\\", b"]", b"-", b"hello", b"hallo"]


def test_glob_patterns(harness: Harness, redis: reference.Connection) -> None:
    for text in TEXTS:
        compare(harness, redis, [(b"SET", text, b"1")], 2)
    for pattern in PATTERNS:
        theirs = redis.run(b"KEYS", pattern)
        ours = harness.run(b"nd.scan", b"0", b"MATCH", pattern, b"COUNT", b"1000")
        assert sorted(theirs.split(b"\r\n")[1:]) == sorted(ours.split(b"\r\n")[4:]), pattern
