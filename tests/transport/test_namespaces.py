"""Lanes between two network namespaces with a veth of 1500 B: the kernel's own interfaces, routes and drops.

Needs root, `ip`, and `iptables` or a kernel with netem; skipped with the reason where one is missing, but an error
where tools/netem asks for netem. A socket belongs to the namespace that it was made in, so both endpoints run in this
process, on one loop.
"""

import contextlib
import ctypes
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from nodedb_node.native.udp import ALL, ERRQUEUE
from nodedb_node.rpc.frame import Kind
from nodedb_node.transport.interface import Accepted, Answer, Message, PeerUp
from nodedb_node.transport.lanequic import DATAGRAM_MIN
from tests.conformance.transport import CONTROL, Sink, Source, bodies, echo, pattern, up
from tests.transport.kit import NODES, Authority, QuicStage

ALICE, BOB = NODES[:2]
AUTHORITY = Authority()
CLONE_NEWNET = 0x40000000
HOSTS = ("10.97.1.1", "10.97.1.2")
VETH_BODY_BYTES = 1500 - 28
NETEM, NETEM_DEVICE = ("tc", "qdisc"), ("dev", "veth0", "root", "netem")
TROUBLE = {
    "delay": "delay 25ms 10ms distribution normal",
    "reordering": "delay 10ms reorder 25% 50%",
    "duplication": "duplicate 20%",
    "loss": "loss 10%",
    "bursts of loss": "loss gemodel 2% 20%",
    "corruption": "corrupt 5%",
    "all": "delay 20ms 5ms loss 3% duplicate 3% corrupt 1% reorder 10%",
}
RANDOM = ("-m", "statistic", "--mode", "random", "--probability")
libc = ctypes.CDLL(None, use_errno=True)
numbers = itertools.count()


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def enter(path: str) -> None:
    """This thread, and the sockets that it makes from now on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            raise RuntimeError(f"{path}: setns: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(descriptor)


def inside(space: str, *words: str) -> str:
    return run("ip", "netns", "exec", space, *words)


def lacking(*programs: str) -> str:
    if os.geteuid() != 0:
        return "network namespaces need root"
    lacks = [name for name in programs if shutil.which(name) is None]
    return f"not installed: {', '.join(lacks)}" if lacks else ""


@pytest.fixture(scope="module")
def spaces() -> Iterator[list[str]]:
    """Names of two joined namespaces; the test's thread stands in the first one."""
    if why := lacking("ip"):
        absent(why)
    names = [f"nd-{os.getpid()}-{side}" for side in "ab"]
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        try:
            for name in names:
                run("ip", "netns", "add", name)
            run(*f"ip -n {names[0]} link add veth0 type veth peer name veth0 netns {names[1]}".split())
            for name, host in zip(names, HOSTS, strict=True):
                run(*f"ip -n {name} addr add {host}/24 dev veth0".split())
                run(*f"ip -n {name} link set veth0 up".split())
            enter(f"/run/netns/{names[0]}")
        except RuntimeError as error:
            absent(f"no network namespaces here: {error}")
        yield names
    finally:
        assert libc.setns(own, CLONE_NEWNET) == 0
        os.close(own)
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def absent(why: str) -> None:
    """Skip; where netem is asked for, nothing is skipped."""
    if "NODEDB_NETEM" in os.environ:
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="module")
def filtered(spaces: list[str]) -> list[str]:
    """They have iptables."""
    if why := lacking("iptables"):
        pytest.skip(why)
    try:
        inside(spaces[0], "iptables", "-A", "INPUT", *RANDOM, "0", "-j", "DROP")
    except RuntimeError as error:
        pytest.skip(f"no iptables here: {error}")
    return spaces


@pytest.fixture(scope="module")
def shaped(spaces: list[str]) -> list[str]:
    """They have netem."""
    if why := lacking("tc"):
        absent(why)
    try:
        for space in spaces:
            inside(space, *NETEM, "add", *NETEM_DEVICE, "limit", "10000")
    except RuntimeError as error:
        absent(f"no netem here: {error}")
    return spaces


class Way:
    """Two endpoints, one in each namespace, and rules for what comes in."""

    def __init__(self, spaces: list[str], features: int) -> None:
        self.spaces = spaces
        self.stage = QuicStage(features=features, issuer=AUTHORITY)
        generation = next(numbers) + 1
        self.alice = self.stage.start(ALICE, generation, host=HOSTS[0])
        enter(f"/run/netns/{spaces[1]}")
        self.bob = self.stage.start(BOB, generation, host=HOSTS[1])
        enter(f"/run/netns/{spaces[0]}")
        echo(self.bob)
        self.alice.transport.meet(BOB, CONTROL, self.bob.address)
        self.stage.run(lambda: up(self.alice, BOB) and up(self.bob, ALICE))

    def drop(self, *rule: str, sides: tuple[int, ...] = (0, 1)) -> None:
        for side in sides:
            inside(self.spaces[side], "iptables", "-A", "INPUT", "-p", "udp", *rule, "-j", "DROP")

    def pass_all(self) -> None:
        for space in self.spaces:
            inside(space, "iptables", "-F", "INPUT")

    def calls(self, count: int, size: int = 200) -> None:
        """All are answered, in order, each once."""
        ends: list[Any] = []
        for number in range(count):
            message = Message(40, b"%d " % number + bytes(size))
            taken = self.alice.transport.call(BOB, CONTROL, Kind.LOG, message, 20_000, ends.append, True)
            assert isinstance(taken, Accepted)
        self.stage.run(lambda: len(ends) == count, 25)
        assert ends == [Answer(b"%d " % number + bytes(size)) for number in range(count)]

    def calls_and_bulk(self, count: int, size: int) -> None:
        """Beside each other."""
        sink, done = Sink(), list[Any]()
        self.bob.handlers.on_offer = lambda offer: sink
        self.alice.transport.bulk(BOB, CONTROL, "x", b"", Source(size), done.append)
        self.calls(count)
        self.stage.run(lambda: len(done) == 1, 40)
        assert done == [Answer(b"")] and bytes(sink.data) == pattern(0, size)
        assert len(bodies(self.bob)) == count, "each was done once"

    def sizes(self) -> list[int]:
        return [conn.quic.datagram_size for one in (self.alice, self.bob) for conn in one.endpoint.connections()]


@contextlib.contextmanager
def way(spaces: list[str], features: int = ALL) -> Iterator[Way]:
    made = Way(spaces, features)
    try:
        yield made
    finally:
        made.stage.close()


@contextlib.contextmanager
def filtered_way(spaces: list[str], features: int = ALL) -> Iterator[Way]:
    with way(spaces, features) as made:
        try:
            yield made
        finally:
            made.pass_all()


@pytest.mark.parametrize("loss", ["0.01", "0.1", "0.3"])
def test_what_the_kernel_drops_is_sent_again(filtered: list[str], loss: str) -> None:
    with filtered_way(filtered) as made:
        made.drop(*RANDOM, loss)
        made.calls_and_bulk(100, 1 << 20)


def test_datagrams_are_as_large_as_the_interface(filtered: list[str]) -> None:
    with filtered_way(filtered) as made:
        made.stage.run(lambda: all(1400 < size <= VETH_BODY_BYTES for size in made.sizes()), 5)
        made.calls(20, 20_000)


def test_a_path_that_swallows_large_packets(filtered: list[str]) -> None:
    """Without GSO: a filter sees a whole train as one packet."""
    with filtered_way(filtered, ERRQUEUE) as made:
        made.stage.run(lambda: all(size > 1400 for size in made.sizes()), 5)
        made.drop("-m", "length", "--length", "1300:")
        made.calls(20, 20_000)
        assert DATAGRAM_MIN in made.sizes()
        assert len([event for event in made.alice.handlers.events if isinstance(event, PeerUp)]) == 1


@pytest.mark.parametrize("side", [0, 1], ids=["deaf", "mute"])
def test_a_way_that_is_cut_in_one_direction_is_noticed_and_comes_back(filtered: list[str], side: int) -> None:
    """Who hears nothing gives up in less than two seconds; the other hears nothing from then on."""
    with filtered_way(filtered) as made:
        made.calls(5)
        made.drop(sides=(side,))
        began = made.stage.loop.time()
        ups = [lambda: up(made.alice, BOB), lambda: up(made.bob, ALICE)]
        made.stage.run(lambda: not ups[side](), 4)
        assert made.stage.loop.time() - began < 2.0
        made.stage.run(lambda: not ups[1 - side](), 2)
        made.pass_all()
        made.stage.run(lambda: up(made.alice, BOB) and up(made.bob, ALICE), 10)
        made.calls(5)


@pytest.mark.parametrize("trouble", TROUBLE)
def test_through_netem(shaped: list[str], trouble: str) -> None:
    for space in shaped:
        inside(space, *NETEM, "del", *NETEM_DEVICE[:-1])  # a change would keep what it does not name
        inside(space, *NETEM, "add", *NETEM_DEVICE, "limit", "10000", *TROUBLE[trouble].split())
    with way(shaped) as made:
        made.calls_and_bulk(100, 1 << 18)
        for space in shaped:
            print(trouble, inside(space, "tc", "-s", "qdisc", "show", "dev", "veth0"))
