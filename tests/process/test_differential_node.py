"""A running node answers as redis-server 7.0.15 does, byte for byte (docs/differences.md lists the exceptions)."""

import random
from collections.abc import Iterator

import pytest

from tests.clients import reference
from tests.clients.differential import KEYS, Command, command, equal
from tests.process.node import Node
from tests.seeds import chosen

pytestmark = pytest.mark.process

OPTIONS = ("--databases", "1", "--proto-max-bulk-len", "16777216")
SEEDS = ["1", "run"]
COMMANDS = 4000
PIPELINE_MAX = 40
LARGE = (b"1342177", b"1677721")  # offsets that make values of 16 MiB

CONNECTION = """HELLO 4|HELLO x|HELLO -1|HELLO 02|HELLO 99999999999999999999|HELLO 2 AUTH a b|HELLO 2 AUTH default
HELLO 2 SETNAME|AUTH x|AUTH a b|AUTH default x|AUTH a b c|AUTH|SELECT 0|SELECT x|SELECT -1|SELECT 1|SELECT 00
SELECT 99999999999|CLIENT GETNAME|CLIENT SETNAME abc|CLIENT GETNAME|CLIENT foo|CLIENT|CLIENT ID x|CLIENT NO-EVICT on
CLIENT NO-EVICT x|CONFIG GET save|CONFIG GET nosuch|CONFIG GET proto-max-bulk-len
CONFIG GET DATABASES|CONFIG GET|CONFIG foo|WAIT 0 0|WAIT x 0|WAIT 0 x|WAIT 0 -1|WAIT -1 0|DBSIZE|DBSIZE x|RANDOMKEY
KEYS *|KEYS|SCAN x|SCAN 0 COUNT 0|SCAN 0 COUNT x|SCAN 0 MATCH|SCAN 0 FOO x|FLUSHALL x|FLUSHALL sync
FLUSHALL ASYNC x|FLUSHDB async|COMMAND COUNT x|COMMAND GETKEYS SET a b|COMMAND GETKEYS MSET a 1 b 2
COMMAND GETKEYS PING|COMMAND GETKEYS FOO a|COMMAND GETKEYS GET a b|COMMAND GETKEYSANDFLAGS COPY a b
COMMAND GETKEYS BITOP AND a b c|COMMAND GETKEYS OBJECT ENCODING x|COMMAND INFO nosuch|COMMAND INFO get mset bitop
COMMAND INFO rename del ping scan incrbyfloat config!get|COMMAND FOO|COMMAND LIST FILTERBY MODULE x
COMMAND LIST FILTERBY FOO x|COMMAND LIST FOO|COMMAND DOCS nosuch|ECHO|ECHO a|PING a b|TIME x|OBJECT|OBJECT HELP
COMMAND GETKEYS|RESET|PING"""


@pytest.fixture(scope="module")
def redis_port() -> Iterator[int]:
    if reference.program() is None:
        pytest.skip("no redis-server, redis-check-rdb or redis-check-aof to compare with")
    with reference.redis_server(*OPTIONS) as port:
        yield port


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Two workers: half of the keys of each connection live in the other process."""
    running = Node(tmp_path_factory.mktemp("node"), workers=2).start()
    yield running
    running.stop()


@pytest.fixture
def pair(node: Node, redis_port: int) -> Iterator[tuple[reference.Connection, reference.Connection]]:
    with reference.Connection(node.port) as ours, reference.Connection(redis_port) as theirs:
        ours.run(b"FLUSHALL")
        theirs.run(b"FLUSHALL")
        yield ours, theirs


def compare(pair: tuple[reference.Connection, reference.Connection], commands: list[Command]) -> None:
    replies = zip(commands, pair[0].pipeline(commands), pair[1].pipeline(commands), strict=True)
    for i, (sent, got, expected) in enumerate(replies):
        assert equal(sent, got, expected), f"{sent}\nours   {got!r}\ntheirs {expected!r}\nbefore {commands[:i][-5:]}"


@pytest.mark.parametrize("resp", [b"2", b"3"])
@pytest.mark.parametrize("seed", SEEDS)
def test_random_commands(pair: tuple[reference.Connection, reference.Connection], seed: str, resp: bytes) -> None:
    rng = random.Random(chosen(seed))
    for connection in pair:
        connection.run(b"HELLO", resp)
    sent = 0
    while sent < COMMANDS:
        # Many values of 16 MiB at once fill the bounded queue between the workers: an overload error, not a difference.
        drawn = [command(rng) for _ in range(rng.randint(1, PIPELINE_MAX))]
        batch = [c for c in drawn if not any(large in argument for argument in c for large in LARGE)]
        compare(pair, batch)
        compare(pair, [(name, key) for key in KEYS for name in (b"GET", b"PEXPIRETIME")])
        sent += len(batch)


def spelled() -> list[Command]:
    lines = CONNECTION.replace("\n", "|").split("|")
    return [tuple(word.replace("!", "|").encode() for word in line.split()) for line in lines]


@pytest.mark.parametrize("resp", [b"2", b"3"])
@pytest.mark.parametrize("sent", spelled(), ids=lambda sent: b" ".join(sent).decode())
def test_connection_and_server(
    pair: tuple[reference.Connection, reference.Connection], sent: Command, resp: bytes
) -> None:
    for connection in pair:
        connection.run(b"HELLO", resp)
    assert pair[0].run(*sent) == pair[1].run(*sent)


CONTAINERS = {b"acl", b"client", b"cluster", b"command", b"config", b"object"}  # Redis has other subcommands
WITH_NOTES = {b"bitfield", b"getex", b"set"}  # see docs/differences.md
SINCE_7_2 = {b"client|setinfo", b"client|no-touch"}


def test_the_table_is_that_of_redis(pair: tuple[reference.Connection, reference.Connection]) -> None:
    """COMMAND INFO of every command and subcommand: arity, flags, categories, keys."""
    ours, theirs = (words_of(one.run(b"COMMAND", b"LIST")) for one in pair)
    assert ours - theirs == SINCE_7_2
    assert {name for name in theirs if name.startswith((b"object|", b"command|"))} <= ours
    for name in sorted(ours - CONTAINERS - WITH_NOTES - SINCE_7_2):
        mine, other = (sets_sorted(one.run(b"COMMAND", b"INFO", name)) for one in pair)
        assert mine == other, name
    for category in (b"read", b"write", b"keyspace", b"string", b"bitmap", b"connection", b"dangerous", b"admin"):
        mine, other = (words_of(one.run(b"COMMAND", b"LIST", b"FILTERBY", b"ACLCAT", category)) for one in pair)
        assert mine == other & ours | mine & SINCE_7_2
    mine, other = (words_of(one.run(b"COMMAND", b"LIST", b"FILTERBY", b"PATTERN", b"C*E*")) for one in pair)
    assert mine == other & ours | mine & SINCE_7_2


def words_of(reply: bytes) -> set[bytes]:
    return set(reply.split(b"\r\n")[2::2])


def sets_sorted(reply: bytes) -> list[bytes]:
    """Lines of a reply with those of flags and categories, which have no order, sorted where they are neighbours."""
    found: list[bytes] = []
    for line in reply.split(b"\r\n"):
        found.append(line)
        at = len(found) - 1
        while line[:1] == b"+" and at and found[at - 1][:1] == b"+" and found[at - 1] > found[at]:
            found[at - 1], found[at] = found[at], found[at - 1]
            at -= 1
    return found


def test_what_covers_the_node(node: Node, pair: tuple[reference.Connection, reference.Connection]) -> None:
    """DBSIZE, KEYS, SCAN and RANDOMKEY: all keys on the shared port, each worker's own on its port."""
    ours, _ = pair
    names = {b"key:%d" % i for i in range(500)}
    ours.pipeline([(b"SET", name, b"1") for name in names])
    assert scan_all(ours) == names == words_of(ours.run(b"KEYS", b"*"))
    assert ours.run(b"DBSIZE") == b":500\r\n"
    assert ours.run(b"RANDOMKEY").split(b"\r\n")[1] in names
    parts = []
    for port in node.worker_ports:
        with reference.Connection(port) as worker:
            parts.append(scan_all(worker))
            assert words_of(worker.run(b"KEYS", b"key:*")) == parts[-1]
            assert worker.run(b"DBSIZE") == b":%d\r\n" % len(parts[-1])
    assert len(parts[0]) + len(parts[1]) == 500 and parts[0] | parts[1] == names


def scan_all(connection: reference.Connection) -> set[bytes]:
    found, cursor = set(), b"0"
    for _ in range(10_000):
        lines = connection.run(b"SCAN", cursor, b"COUNT", b"20").split(b"\r\n")
        cursor = lines[2]
        found |= set(lines[5::2])
        if cursor == b"0":
            return found
    raise AssertionError("SCAN does not end")
