"""Lanes in memory and virtual time: the hub of the real transport over simulated connections, seeded and repeatable.

What is real: sessions, greetings, queues, calls, answers, bulk. What is simulated: connections, that is what QUIC does:
ordered streams, delivered after a delay or lost with the whole connection. partition() is seen as loss after the time
that a keepalive needs; crash() is a process that ends without a word.
"""

import heapq
import itertools
from collections.abc import Callable
from random import Random
from typing import Any

from nodedb_node.ids import ClusterId, NodeId, Process
from nodedb_node.rpc.frame import Kind
from nodedb_node.rpc.hello import Local, Why
from nodedb_node.transport.hub import Hub
from nodedb_node.transport.interface import (
    Address,
    Arrival,
    BulkOffer,
    BulkSink,
    Handlers,
    PeerDown,
    PeerUp,
)

CLUSTER = ClusterId("c" * 32)
KEEPALIVE_US = 1_500_000
DIAL_US = 500_000


class Simulation:
    """Virtual time, and connections between processes."""

    def __init__(self, seed: int, delay_us: tuple[int, int] = (100, 2_000)) -> None:
        self.random = Random(seed)
        self.now_us = 1_000_000
        self._delay_us = delay_us
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._listening: dict[Address, SimLinks] = {}
        self._cut: set[frozenset[NodeId]] = set()
        self._wires: list[Wire] = []

    def at(self, at_us: int, do: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (at_us, next(self._order), do))

    def later(self, do: Callable[[], None], after_us: int = 0) -> None:
        self.at(self.now_us + after_us + self.random.randint(*self._delay_us), do)

    def step(self) -> bool:
        """The next event; False when nothing will ever happen."""
        if not self._queue:
            return False
        at_us, _, do = heapq.heappop(self._queue)
        self.now_us = max(self.now_us, at_us)
        do()
        return True

    def run(self, until: Callable[[], bool], within_s: float = 10.0) -> None:
        """Virtual time goes on until the condition holds; AssertionError when it does not within this time."""
        end = self.now_us + int(within_s * 1e6)
        while not until():
            if not self._queue or self._queue[0][0] > end:
                self.now_us = end
                assert until(), f"not within {within_s} s of virtual time"
                return
            self.step()

    def partition(self, one: NodeId, other: NodeId) -> None:
        self._cut.add(frozenset((one, other)))
        for wire in [wire for wire in self._wires if wire.between(one, other)]:
            self.at(self.now_us + KEEPALIVE_US, lambda wire=wire: wire.lost("nothing was heard"))

    def heal(self, one: NodeId, other: NodeId) -> None:
        self._cut.discard(frozenset((one, other)))

    def cut(self, one: NodeId, other: NodeId) -> bool:
        return frozenset((one, other)) in self._cut

    def listen(self, address: Address, links: "SimLinks") -> None:
        self._listening[address] = links

    def unlisten(self, address: Address, links: "SimLinks") -> None:
        if self._listening.get(address) is links:
            del self._listening[address]

    def find(self, address: Address) -> "SimLinks | None":
        return self._listening.get(address)

    def wire(self, one: "SimLinks", other: "SimLinks") -> "Wire":
        wire = Wire(self, one, other)
        self._wires.append(wire)
        return wire


class Wire:
    """One connection: two ends, each with the number its hub knows it by."""

    def __init__(self, sim: Simulation, one: "SimLinks", other: "SimLinks") -> None:
        self.sim = sim
        self.ends = (one, other)
        self.numbers = [0, 0]
        self.open = True
        self._arrives = {0: 0, 1: 0}
        self.backlog: dict[tuple[int, Kind], int] = {}

    def between(self, one: NodeId, other: NodeId) -> bool:
        return self.open and {end.node_id for end in self.ends} == {one, other}

    def write(self, end: int, kind: Kind, data: bytes) -> None:
        self.backlog[end, kind] = self.backlog.get((end, kind), 0) + len(data)

        def arrive() -> None:
            if not self.open or self.sim.cut(self.ends[0].node_id, self.ends[1].node_id):
                return
            self.backlog[end, kind] -= len(data)
            self.ends[1 - end].data(self.numbers[1 - end], kind, data)
            self.ends[end].acked(self.numbers[end])

        # Streams are ordered; to keep it simple, so is the connection.
        delay = self.sim.random.randint(50, 1_000)
        self._arrives[end] = max(self._arrives[end], self.sim.now_us + delay)
        self.sim.at(self._arrives[end], arrive)

    def close(self, end: int, why: Why | None, text: str) -> None:
        """This end closes; the other one hears of it."""
        if not self.open:
            return
        other = 1 - end

        def heard() -> None:
            self.ends[other].closed(self.numbers[other], why, text)

        self._arrives[end] = max(self._arrives[end], self.sim.now_us + 500)
        dead = self.sim.cut(self.ends[0].node_id, self.ends[1].node_id)
        self.sim.at(self._arrives[end] + (KEEPALIVE_US if dead else 0), self._shut)
        self.sim.at(self._arrives[end] + (KEEPALIVE_US if dead else 0), heard)

    def _shut(self) -> None:
        self.open = False

    def lost(self, text: str) -> None:
        if self.open and self.sim.cut(self.ends[0].node_id, self.ends[1].node_id):
            self.open = False
            for end, number in zip(self.ends, self.numbers, strict=True):
                end.closed(number, None, text)


class SimLinks:
    """hub.Links of one process."""

    def __init__(self, sim: Simulation, node_id: NodeId, address: Address) -> None:
        self.sim = sim
        self.node_id = node_id
        self.address = address
        self.alive = True
        self.hub: Hub | None = None
        self._wires: dict[int, tuple[Wire, int]] = {}
        self._waking: int | None = None
        sim.listen(address, self)

    def dial(self, link: int, address: Address, expected: NodeId, bulk: bool) -> None:
        other = self.sim.find(address)
        if other is None or not other.alive or self.sim.cut(self.node_id, other.node_id):
            self.sim.at(self.sim.now_us + DIAL_US, lambda: self.closed(link, None, "no answer"))
            return
        wire = self.sim.wire(self, other)
        self._wires[link] = (wire, 0)
        wire.numbers[0] = link
        self.sim.later(lambda: other.accept(wire, self.node_id))

    def accept(self, wire: Wire, peer: NodeId) -> None:
        if not self.alive or self.hub is None:
            return
        wire.numbers[1] = self.hub.new_link()
        self._wires[wire.numbers[1]] = (wire, 1)
        dialler = wire.ends[0]
        self.call(lambda hub: hub.on_open(wire.numbers[1], peer))
        self.sim.later(lambda: dialler.call(lambda hub: hub.on_open(wire.numbers[0], self.node_id)))

    def write(self, link: int, kind: Kind, data: bytes) -> None:
        found = self._wires.get(link)
        if found is not None:
            found[0].write(found[1], kind, data)

    def backlog(self, link: int, kind: Kind) -> int:
        found = self._wires.get(link)
        return 0 if found is None else found[0].backlog.get((found[1], kind), 0)

    def end(self, link: int, why: Why, text: str) -> None:
        found = self._wires.pop(link, None)
        if found is not None:
            found[0].close(found[1], why, text)

    # ---- towards the hub ----

    def call(self, do: Callable[[Hub], Any]) -> None:
        if self.alive and self.hub is not None:
            do(self.hub)
            self.turn()

    def data(self, link: int, kind: Kind, data: bytes) -> None:
        self.call(lambda hub: hub.on_data(link, kind, data))

    def acked(self, link: int) -> None:
        self.call(lambda hub: hub.on_acked(link))

    def closed(self, link: int, why: Why | None, text: str) -> None:
        self._wires.pop(link, None)
        self.call(lambda hub: hub.on_closed(link, why, text))

    def wake(self) -> None:
        self.sim.at(self.sim.now_us, lambda: self.call(lambda hub: None))

    def turn(self) -> None:
        """The end of a turn of this process's loop."""
        assert self.hub is not None
        for _ in range(100):
            if not self.hub.dirty:
                break
            self.hub.flush()
        due = self.hub.next_deadline_us()
        if due is not None and (self._waking is None or due < self._waking or self._waking <= self.sim.now_us):
            self._waking = due
            self.sim.at(max(due, self.sim.now_us), self._wake)

    def _wake(self) -> None:
        due = self.hub.next_deadline_us() if self.alive and self.hub is not None else None
        if due is not None and due <= self.sim.now_us:
            self._waking = None
            self.call(lambda hub: hub.tick())
        elif due is not None and (self._waking is None or self._waking <= self.sim.now_us):
            self._waking = due
            self.sim.at(due, self._wake)

    def crash(self) -> None:
        """The process is gone; peers find out by themselves."""
        self.alive = False
        self.sim.unlisten(self.address, self)
        for wire, end in list(self._wires.values()):
            other = 1 - end
            self.sim.at(
                self.sim.now_us + KEEPALIVE_US,
                lambda wire=wire, other=other: (
                    wire.ends[other].closed(wire.numbers[other], None, "nothing was heard") if wire.open else None
                ),
            )
        self._wires.clear()


class Recorder:
    """Handlers that keep what they get, and answer echoes."""

    def __init__(self) -> None:
        self.transport: Hub | None = None
        self.arrivals: list[Arrival] = []
        self.events: list[PeerUp | PeerDown] = []
        self.on_request: Callable[[Arrival], None] | None = None
        self.on_offer: Callable[[BulkOffer], BulkSink] | None = None

    def on_frame(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival)
        if arrival.id and self.on_request is not None:
            self.on_request(arrival)

    def on_peer(self, event: PeerUp | PeerDown) -> None:
        self.events.append(event)

    def on_bulk(self, offer: BulkOffer) -> BulkSink:
        assert self.on_offer is not None
        return self.on_offer(offer)


def start(
    sim: Simulation, node_id: NodeId, handlers: Handlers, generation: int = 1, lane: int = 0, **other: Any
) -> tuple[Hub, SimLinks]:
    """A process of the simulated network; its address is made of its node id and lane."""
    address = address_of(node_id, lane)
    links = SimLinks(sim, node_id, address)
    fields = {
        "cluster_id": CLUSTER,
        "node_id": node_id,
        "generation": generation,
        "nonce": sim.random.randbytes(16),
        "lane": Process(lane),
    }
    local = Local(**{**fields, **other})
    hub = Hub(local, links, handlers, lambda: sim.now_us, sim.random.random, sim.random.randbytes, links.wake)
    links.hub = hub
    return hub, links


def address_of(node_id: NodeId, lane: int = 0) -> Address:
    return Address(node_id[:8], 6490 + lane)
