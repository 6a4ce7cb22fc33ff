"""ACL, AUTH and refusals on a running node as on redis-server 7.0.15, byte for byte where the answer does not follow
from the command set (docs/differences.md lists the exceptions)."""

import random
import re
from collections.abc import Iterator

import pytest

from tests.clients import reference
from tests.process.node import Node
from tests.seeds import chosen

pytestmark = pytest.mark.process

SEEDS = ["1", "run"]
COMMANDS = 400
HASH_A = b"ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
HASH_P = b"148de9c5a7a44d19e56cd9ae1a554bf67847afb0c58f6e12fa29ac7ddfca9940"

USERS = (b"u1", b"u2", b"x|y", b"default", b"nosuch")
RULES = (
    *(b"on off nopass resetpass reset allkeys resetkeys allchannels resetchannels allcommands nocommands".split()),
    *(b"clearselectors sanitize-payload skip-sanitize-payload ~* &* +@all -@all ~a* ~b ~{t}* %R~r* %W~w*".split()),
    *(b"%R~c %W~c %~x %X~x %RR~x %R ~ & &ch &other foo ON NoPass ALLKEYS +@ALL +get +set +GET -get".split()),
    *(b"+del -del %RW~c %WR~d +select|0 +select|1 +SELECT|0 +select| +nosuch -nosuch +@nosuch -select|0".split()),
    *(b"+config|get +config -config -config|get +config|nosuch +config|get|x +client|id -client".split()),
    *(b"+acl|whoami +object|freq +mset +copy +ping +bitfield +bitop +rename +exists +strlen +mget".split()),
    *(b"+append (+get (~a*) (+get) (foo) (+set) () (+@all) (on) #abc !abc # ! <nosuch + - +| % ( )".split()),
    *(b"~a b", b"+get x", b"", b"(+get ~s*)", b"(%R~q* +mget +copy)", b"(%W~w2 +set +copy) "),
    *(b"#" + HASH_A, b"#" + HASH_P, b"!" + HASH_A, b"!" + HASH_P),
)
KEYS = (b"a1", b"b", b"c", b"d", b"r1", b"w1", b"w2", b"s1", b"q1", b"zz", b"{t}1")
CHECKED = (
    *(b"get set del copy mget mset exists strlen append bitfield bitop rename".split()),
    *(b"bitfield_ro object|freq touch unlink".split()),
)


@pytest.fixture(scope="module")
def redis_port() -> Iterator[int]:
    if reference.program() is None:
        pytest.skip("no redis-server, redis-check-rdb or redis-check-aof to compare with")
    with reference.redis_server("--databases", "1") as port:
        yield port


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("acl"), {"clients.auth_failures_max": 1_000_000}, workers=2) as running:
        yield running.start()


Pair = tuple[reference.Connection, reference.Connection]


@pytest.fixture
def pair(node: Node, redis_port: int) -> Iterator[Pair]:
    """Connections of the default user to both, with no other users; what a test did to the default user is undone by a
    user that may always come back."""
    with reference.Connection(node.port) as ours, reference.Connection(redis_port) as theirs:
        for one in (ours, theirs):
            one.run(b"ACL", b"SETUSER", b"keeper", b"on", b"nopass", b"allkeys", b"allchannels", b"allcommands")
        yield ours, theirs
    for port in (node.port, redis_port):
        with reference.Connection(port) as one:
            one.run(b"AUTH", b"keeper", b"x")
            rules = (b"reset", b"on", b"nopass", b"allkeys", b"allchannels", b"allcommands")
            one.run(b"ACL", b"SETUSER", b"default", *rules)
            one.run(b"ACL", b"DELUSER", *(name for name in USERS if name != b"default"))
            one.run(b"ACL", b"LOG", b"RESET")
            one.run(b"FLUSHALL")


def same(pair: Pair, *argv: bytes) -> bytes:
    """Both answer the same; the answer."""
    ours, theirs = pair[0].run(*argv), pair[1].run(*argv)
    assert canonical(ours) == canonical(theirs), f"{argv}\nours   {ours!r}\ntheirs {theirs!r}"
    return ours


def canonical(reply: bytes) -> bytes:
    """Rules for single commands come in the order of a hash table in Redis; whom a reply names by number differs."""
    return re.sub(rb"(?: [+-][a-z0-9_|]+)+", lambda found: b" " + b" ".join(sorted(found[0].split())), reply)


def setuser(rng: random.Random) -> tuple[bytes, ...]:
    name = rng.choice(USERS[:3])
    return (b"ACL", b"SETUSER", name, *(rng.choice(RULES) for _ in range(rng.randint(0, 4))))


def dryrun(rng: random.Random) -> tuple[bytes, ...]:
    name = rng.choice(CHECKED)
    keys = [rng.choice(KEYS) for _ in range(3)]
    shapes: dict[bytes, list[bytes]] = {
        b"set": [keys[0], b"1", *rng.choice(([], [b"GET"], [b"get", b"EX", b"10"]))],
        b"copy": keys[:2],
        b"rename": keys[:2],
        b"mset": [keys[0], b"1", keys[1], b"2"],
        b"append": [keys[0], b"x"],
        b"bitop": [b"AND", *keys],
        b"bitfield": [keys[0], *rng.choice(([b"GET", b"u8", b"0"], [b"SET", b"u8", b"0", b"1"], [b"x"], []))],
        b"bitfield_ro": [keys[0], b"GET", b"u8", b"0"],
        b"object|freq": [keys[0]],
    }
    words = shapes.get(name, keys if name in (b"mget", b"del", b"exists", b"touch", b"unlink") else keys[:1])
    return (b"ACL", b"DRYRUN", rng.choice(USERS[:3]), *name.split(b"|"), *words)


@pytest.mark.parametrize("resp", [b"2", b"3"])
@pytest.mark.parametrize("seed", SEEDS)
def test_random_rules(pair: Pair, seed: str, resp: bytes) -> None:
    rng = random.Random(chosen(seed))
    for one in pair:
        one.run(b"HELLO", resp)
    for _ in range(COMMANDS):
        drawn = rng.random()
        if drawn < 0.45:
            same(pair, *setuser(rng))
        elif drawn < 0.8:
            same(pair, *dryrun(rng))
        elif drawn < 0.9:
            same(pair, b"ACL", b"GETUSER", rng.choice(USERS))
        elif drawn < 0.98:
            same(pair, b"ACL", rng.choice((b"LIST", b"USERS")))
        else:
            same(pair, b"ACL", b"DELUSER", rng.choice(USERS[:3]), b"nosuch")


WORDS = """ACL|ACL foo|ACL SETUSER|ACL GETUSER|ACL GETUSER nosuch|ACL DELUSER|ACL DELUSER default
ACL DELUSER u1 default|ACL USERS x|ACL LIST x|ACL WHOAMI|ACL WHOAMI x|ACL CAT|ACL CAT nosuch|ACL CAT read x
ACL cat read x|ACL LOG|ACL LOG x|ACL LOG -1|ACL LOG 1 2|ACL LOG RESET|ACL log reset|ACL LOG 99999999999999999999
ACL GENPASS x|ACL GENPASS 0|ACL GENPASS -1|ACL GENPASS 4097|ACL GENPASS 5 6|ACL DRYRUN|ACL DRYRUN default
ACL DRYRUN nosuch get a|ACL DRYRUN default nosuch|ACL DRYRUN default get|ACL DRYRUN default config
ACL DRYRUN default config foo|ACL DRYRUN default acl|ACL LOAD|ACL SAVE|ACL DRYRUN default acl!whoami
ACL DRYRUN default acl whoami|ACL SAVE x|AUTH|AUTH a|AUTH a b|AUTH a b c|AUTH default x
ACL SETUSER u1 (+get|ACL SETUSER u1 (+get ~x (+set)|ACL SETUSER u1 ) (|HELLO 3 AUTH a b|HELLO 3 AUTH default x
HELLO 2 AUTH default|HELLO 3 SETNAME a AUTH nosuch b|HELLO 9 AUTH a b|RESET|ACL SETUSER u1 >p
CONFIG GET acllog-max-len"""


def spelled() -> list[tuple[bytes, ...]]:
    lines = WORDS.replace("\n", "|").split("|")
    return [tuple(word.replace("!", "|").encode() for word in line.split()) for line in lines]


@pytest.mark.parametrize("resp", [b"2", b"3"])
@pytest.mark.parametrize("sent", spelled(), ids=lambda sent: b" ".join(sent).decode())
def test_words(pair: Pair, sent: tuple[bytes, ...], resp: bytes) -> None:
    for one in pair:
        one.run(b"HELLO", resp)
    if sent[:3] == (b"HELLO", b"3", b"AUTH") and sent[3] == b"default":
        replies = [re.sub(rb":\d+\r|cluster|standalone|\$\d+\r", b"", one.run(*sent)) for one in pair]
        assert replies[0] == replies[1]
    else:
        same(pair, *sent)


def test_commands_that_are_refused(pair: Pair) -> None:
    """NOPERM and what ACL LOG says about it; keys for reading, for writing, in several selectors, of several
    arguments."""
    rules = b"on nopass ~a* %R~r* %W~w* -@all +get +set +acl|whoami +mget +copy +select|0 +exists +strlen +bitfield"
    same(pair, b"ACL", b"SETUSER", b"u1", *rules.split(), b"(+append ~s*)")
    same(pair, b"AUTH", b"u1", b"anything")
    script = """ACL WHOAMI|SET zz 1|SET a1 1|GET w1|SET r1 1|SET w1 1|SET w1 1 GET|GET r1|GET nosuch|MGET a1 b1|EXISTS
    w1 EXISTS zz|STRLEN w1|DEL a1|CONFIG GET x|SELECT 0|SELECT 1|ACL LIST|APPEND s1 x|APPEND a1 x|GET s1
    BITFIELD r1 GET u8 0
    BITFIELD r1 SET u8 0 1|BITFIELD w1 SET u8 0 1|NOSUCH|GET|CONFIG|CONFIG NOSUCH|PING|COPY {r}1 {w}1"""
    for line in script.replace("\n", "|").split("|"):
        same(pair, *line.strip().encode().split())
    same(pair, b"RESET")
    assert entries(pair[0].run(b"ACL", b"LOG", b"50")) == entries(pair[1].run(b"ACL", b"LOG", b"50"))


def entries(reply: bytes) -> list[bytes]:
    """Without what depends on the moment and the connection."""
    text = re.sub(rb"(age-seconds\r\n)(?:,|\$\d+\r\n)[\d.e-]+\r\n", rb"\1", reply)
    return re.sub(rb"(client-info\r\n)\$\d+\r\n[^\r]*\r\n", rb"\1", text).split(b"count")


def test_a_password_for_everyone(pair: Pair, node: Node, redis_port: int) -> None:
    same(pair, b"ACL", b"SETUSER", b"default", b"#" + HASH_A)
    same(pair, b"GET", b"a")  # who is in stays in
    with reference.Connection(node.port) as ours, reference.Connection(redis_port) as theirs:
        fresh = (ours, theirs)
        script = """GET a|FOO|GET|PING|AUTH x|AUTH default a y|HELLO 3|HELLO 3 AUTH default x|ACL WHOAMI|AUTH default a
        ACL WHOAMI|RESET|PING|AUTH a|PING|RESET|HELLO|QUIT"""
        for line in script.replace("\n", "|").split("|"):
            same(fresh, *line.strip().encode().split())
    same(pair, b"ACL", b"SETUSER", b"default", b"off")
    with reference.Connection(node.port) as ours, reference.Connection(redis_port) as theirs:
        for line in ("PING", "AUTH a", "AUTH default a", "AUTH keeper x", "PING", "ACL LOG RESET"):
            same((ours, theirs), *line.encode().split())


def test_before_authentication_commands_are_small(node: Node, redis_port: int, pair: Pair) -> None:
    same(pair, b"ACL", b"SETUSER", b"default", b"#" + HASH_A)
    for sent in (b"*11\r\n", b"*2\r\n$4\r\nAUTH\r\n$16385\r\n"):
        replies = []
        for port in (node.port, redis_port):
            with reference.Connection(port) as one:
                one._socket.sendall(sent)
                replies.append(one._reply())
                assert one._socket.recv(10) == b""
        assert replies[0] == replies[1]
