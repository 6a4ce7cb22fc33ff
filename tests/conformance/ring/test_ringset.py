"""One suite for every ring set: the real one over shared memory, and the simulated one."""

import os
import random
import select
import zlib
from collections.abc import Iterator
from typing import Protocol

import pytest

from nodedb_node.native.ringset import MESSAGE_BYTES_MAX, NativeRingSet, PeerDown, RingSet
from nodedb_node.native.shm import DOWN, STARTING, SharedMemory, create, ring_all
from tests.sim.rings import SimMemory, SimRingSet

# One for the whole run: parallel test processes must collect the same tests.
FRESH_SEED = zlib.crc32(os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid())).encode())
PROCESSES = 3
RING_BYTES = 262_144
OVERFLOW_BYTES = 40_000_000


class Node(Protocol):
    """What a supervisor can do."""

    def open(self, process: int) -> RingSet: ...
    def started(self, process: int) -> None: ...
    def died(self, process: int) -> int: ...
    def rung(self, process: int) -> bool: ...
    def close(self) -> None: ...


class RealNode:
    def __init__(self) -> None:
        fd = create(PROCESSES, RING_BYTES)
        self.shm = SharedMemory(fd)
        os.close(fd)
        self.bells = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(PROCESSES)]

    def open(self, process: int) -> RingSet:
        return NativeRingSet(self.shm, process, self.bells, OVERFLOW_BYTES)

    def started(self, process: int) -> None:
        self.shm.started(process, 1)
        ring_all(self.bells)

    def died(self, process: int) -> int:
        generation = self.shm.died(process)
        ring_all(self.bells)
        return generation

    def rung(self, process: int) -> bool:
        poll = select.poll()
        poll.register(self.bells[process], select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        for bell in self.bells:
            os.close(bell)
        self.shm.unmap()


class SimNode:
    def __init__(self) -> None:
        self.memory = SimMemory(PROCESSES, OVERFLOW_BYTES)

    def open(self, process: int) -> RingSet:
        return SimRingSet(self.memory, process)

    def started(self, process: int) -> None:
        self.memory.started(process)

    def died(self, process: int) -> int:
        return self.memory.died(process)

    def rung(self, process: int) -> bool:
        return self.memory.lives[process].rung

    def close(self) -> None:
        pass


@pytest.fixture(params=[RealNode, SimNode])
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    made: Node = request.param()
    yield made
    made.close()


def settle(rings: RingSet) -> None:
    """Until it sleeps: reading nothing, only taking notice of others."""
    for _ in range(10):
        while rings.event():
            pass
        assert rings.next() is None
        if rings.sleep():
            rings.wake(True)
            return
    raise AssertionError("the ring set never rests")


def test_messages_arrive_in_order_once_published(node: Node) -> None:
    a, b = node.open(1), node.open(2)
    for number in range(500):
        assert a.push(2, 1 + number % 255, number, b"%d" % number * (number % 7))
    assert b.next() is None
    a.publish()
    for number in range(500):
        got = b.next()
        assert got == (1, 1, 1 + number % 255, number, b"%d" % number * (number % 7))
    assert b.next() is None
    a.close()
    b.close()


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 1_000_000, 20_000_000, 50_000_000])
def test_any_size_arrives_whole(node: Node, size: int) -> None:
    a, b = node.open(1), node.open(2)
    data = random.Random(size).randbytes(min(size, 4096)) * (size // 4096 + 1)
    assert a.push(2, 9, 77, data[:size])
    for _ in range(2000):
        a.publish()
        if got := b.next():
            assert got == (1, 1, 9, 77, data[:size])
            break
    else:
        raise AssertionError("it never arrived")
    with pytest.raises(ValueError, match="larger"):
        a.push(2, 9, 78, bytes(MESSAGE_BYTES_MAX + 1))
    a.close()
    b.close()


def test_a_bell_is_rung_once_per_sleep_and_only_then(node: Node) -> None:
    a, b = node.open(1), node.open(2)
    settle(b)
    a.push(2, 1, 1, b"x")
    assert a.publish() == 0
    assert not b.sleep()
    assert b.next() is not None
    assert b.next() is None
    assert b.sleep()
    a.push(2, 1, 2, b"x")
    assert not node.rung(2)
    assert a.publish() == 1
    assert node.rung(2)
    a.push(2, 1, 3, b"x")
    assert a.publish() == 0
    b.wake(True)
    assert not node.rung(2)
    assert [m.request_id for m in (b.next(), b.next()) if m] == [2, 3]
    a.close()
    b.close()


def test_a_full_lane_refuses_and_takes_again_when_read(node: Node) -> None:
    a, b = node.open(1), node.open(2)
    sent = 0
    while a.push(2, 1, sent, bytes(1_000_000)):
        sent += 1
        assert sent < 100
    got = 0
    for _ in range(5000):
        a.publish()
        while message := b.next():
            assert message.request_id == got
            got += 1
        if got == sent:
            break
    assert got == sent
    assert a.push(2, 1, sent, b"again")
    a.close()
    b.close()


def test_nothing_passes_between_lives(node: Node) -> None:
    a, b = node.open(1), node.open(2)
    assert a.push(2, 1, 1, b"for the first life")
    assert b.push(1, 1, 2, b"from the first life")
    a.publish()
    b.publish()
    a.push(2, 1, 3, b"unpublished")
    b.close()
    assert node.died(2) == 2
    assert a.event() == (2, DOWN, 2, 1)
    assert a.event() is None
    assert a.next() is None
    with pytest.raises(PeerDown):
        a.push(2, 1, 4, b"nobody there")
    node.started(2)
    b = node.open(2)
    assert b.generation == 2
    assert b.next() is None
    assert a.event() == (2, STARTING, 2, 2)
    assert a.push(2, 1, 5, b"for the second life")
    a.publish()
    assert b.next() == (1, 1, 1, 5, b"for the second life")
    assert b.push(1, 1, 6, b"from the second life")
    b.publish()
    assert a.next() == (2, 2, 1, 6, b"from the second life")
    a.close()
    b.close()


def test_a_change_of_the_table_wakes(node: Node) -> None:
    a = node.open(1)
    settle(a)
    assert a.sleep()
    node.died(2)
    assert node.rung(1)
    a.wake(True)
    assert not a.sleep()
    assert a.event() is not None
    a.close()


def test_two_busy_peers_are_read_in_turns(node: Node) -> None:
    c, a, b = node.open(0), node.open(1), node.open(2)
    for number in range(300):
        assert a.push(0, 1, number, b"x")
        assert b.push(0, 1, number, b"x")
    a.publish()
    b.publish()
    order = [message.peer for _ in range(600) if (message := c.next())]
    assert len(order) == 600
    assert {1, 2} == set(order[:130])
    for rings in (a, b, c):
        rings.close()


class Walk:
    """Random pushes, publishes, reads, deaths; every pair of lives must see exactly a prefix of what was sent."""

    def __init__(self, node: Node, seed: int) -> None:
        self.node, self.rng = node, random.Random(seed)
        self.rings = [node.open(process) for process in range(PROCESSES)]
        self.lives = [[1] * PROCESSES for _ in range(PROCESSES)]  # as each process knows them
        self.sent: dict[tuple[int, int, int, int], int] = {}
        self.got: dict[tuple[int, int, int, int], int] = {}

    def step(self) -> None:
        process = self.rng.randrange(PROCESSES)
        act = self.rng.choices((self.push, self.publish, self.read, self.events, self.die), (40, 15, 30, 10, 1))[0]
        act(process)

    def push(self, a: int) -> None:
        b = self.rng.choice([p for p in range(PROCESSES) if p != a])
        lane = (a, self.rings[a].generation, b, self.lives[a][b])
        number = self.sent.get(lane, 0)
        size = self.rng.choice((0, 10, 100, 5000, 90_000))
        try:
            if self.rings[a].push(b, 1, number, b"%d.%d.%d.%d " % lane + bytes(size)):
                self.sent[lane] = number + 1
        except PeerDown:
            pass

    def publish(self, a: int) -> None:
        self.rings[a].publish()

    def read(self, b: int) -> None:
        for _ in range(self.rng.randrange(20)):
            message = self.rings[b].next()
            if message is None:
                return
            lane = (message.peer, message.generation, b, self.rings[b].generation)
            assert message.generation == self.lives[b][message.peer]
            assert message.data.startswith(b"%d.%d.%d.%d " % lane)
            assert message.request_id == self.got.get(lane, 0)
            self.got[lane] = message.request_id + 1

    def events(self, a: int) -> None:
        while event := self.rings[a].event():
            assert event.generation_before == self.lives[a][event.peer]
            self.lives[a][event.peer] = event.generation

    def die(self, a: int) -> None:
        self.rings[a].close()
        self.node.died(a)
        self.node.started(a)
        self.rings[a] = self.node.open(a)
        known = [1] * PROCESSES
        for p in range(PROCESSES):
            known[p] = self.rings[p].generation
        self.lives[a] = known

    def finish(self) -> None:
        """Everything between the lives that are left arrives."""
        for _ in range(400):
            for process in range(PROCESSES):
                self.events(process)
                self.publish(process)
                self.read(process)
        for (a, life_a, b, life_b), count in self.sent.items():
            if (life_a, life_b) == (self.rings[a].generation, self.rings[b].generation):
                assert self.got.get((a, life_a, b, life_b), 0) == count
        for rings in self.rings:
            rings.close()


@pytest.mark.parametrize("seed", [*range(6), FRESH_SEED])
def test_random_walk(node: Node, seed: int) -> None:
    walk = Walk(node, seed)
    for _ in range(1500):
        walk.step()
    walk.finish()
