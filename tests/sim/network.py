"""The simulated network: frames between processes take time, get lost, double, overtake each other, and meet walls.

Each directed pair of nodes is a link. Lanes are ordered streams, so by default frames of one lane keep their order;
`reorder` gives that up. Invariant: a frame is delivered as it was sent or not at all, and every harm is counted. It
does not look into frames, and knows processes only as targets with a `deliver` method.
"""

from typing import Any, NamedTuple, Protocol

from tests.sim.world import World

FOREVER_US = 1 << 62


class Weather(NamedTuple):
    """How bad a network is all the time; partitions and clogs come on top."""

    delay_us: tuple[int, int] = (150, 700)
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0  # chance that a frame ignores its lane's order and takes up to `late_us` longer
    late_us: int = 60_000


CALM = Weather()


class Target(Protocol):
    node: int

    def deliver(self, source: Any, generation: int, messages: list[Any], crc: int) -> None: ...


Sent = tuple[Target, int, tuple[Any, int, list[Any], int]]  # to whom, on the lane of which workers, the frame


class Network:
    """All links of a cluster."""

    def __init__(self, world: World, nodes: int, weather: Weather) -> None:
        self.world, self.nodes, self.weather = world, nodes, weather
        self._blocked: dict[tuple[int, int], int] = {}  # link -> how many walls stand in it
        self._clogged: dict[tuple[int, int], int] = {}  # link -> until when frames wait
        self._held: dict[tuple[int, int], list[Sent]] = {}  # link -> frames of streams that stand still
        self._last: dict[tuple[int, int, int], int] = {}  # lane -> arrival of its newest frame
        self.frames = 0

    def send(self, source: Target, target: Target, worker: int, frame: tuple[Any, int, list[Any], int]) -> None:
        """One frame (source, generation, messages, crc) on the lane between two nodes' processes `worker`."""
        world, weather = self.world, self.weather
        link = (source.node, target.node)
        self.frames += 1
        if self._blocked.get(link):
            world.fault("net.blocked")
            return
        if weather.loss and world.chance(weather.loss):
            world.fault("net.lost")
            return
        if link in self._held:
            self._held[link].append((target, worker, frame))
            return
        low, high = weather.delay_us
        arrival = world.now_us + world.between(low, high)
        clogged = self._clogged.get(link, 0)
        if clogged > world.now_us:
            arrival += clogged - world.now_us
            world.fault("net.clogged")
        if weather.reorder and world.chance(weather.reorder):
            arrival += world.between(0, weather.late_us)
            world.fault("net.reordered")
        else:
            lane = (source.node, target.node, worker)
            arrival = max(arrival, self._last.get(lane, 0) + 1)
            self._last[lane] = arrival
        world.at(arrival, target.deliver, *frame)
        if weather.duplicate and world.chance(weather.duplicate):
            world.at(arrival + world.between(0, weather.late_us), target.deliver, *frame)
            world.fault("net.duplicated")

    # ---- walls ----

    def block(self, links: list[tuple[int, int]]) -> None:
        """A wall in each of these links, until the same list is given to unblock."""
        for link in links:
            self._blocked[link] = self._blocked.get(link, 0) + 1

    def unblock(self, links: list[tuple[int, int]]) -> None:
        for link in links:
            if self._blocked.get(link):
                self._blocked[link] -= 1

    def clog(self, links: list[tuple[int, int]], until_us: int) -> None:
        """Frames wait until then, and arrive."""
        for link in links:
            self._clogged[link] = max(until_us, self._clogged.get(link, 0))

    def hold(self, links: list[tuple[int, int]]) -> None:
        """Streams that stand still, as behind one lost packet, until they are released."""
        for link in links:
            self._held.setdefault(link, [])

    def release(self, links: list[tuple[int, int]]) -> None:
        """What is missing has come: everything behind it arrives at once."""
        low, high = self.weather.delay_us
        for link in links:
            arrival = self.world.now_us + self.world.between(low, high)
            for target, worker, frame in self._held.pop(link, []):
                arrival += 1
                self._last[*link, worker] = arrival
                self.world.at(arrival, target.deliver, *frame)
                self.world.fault("net.held")

    def open(self, source: int, target: int) -> bool:
        return not self._blocked.get((source, target))

    def heal(self) -> None:
        """Calm weather, no walls; frames that wait still wait."""
        self.weather = CALM
        self._blocked.clear()
        self._clogged.clear()
        self.release(list(self._held))

    # ---- shapes of partitions ----

    def across(self, side: set[int]) -> list[tuple[int, int]]:
        """Links between `side` and the rest, both ways."""
        rest = [node for node in self._all() if node not in side]
        return [link for a in sorted(side) for b in rest for link in ((a, b), (b, a))]

    def out_of(self, node: int) -> list[tuple[int, int]]:
        return [(node, other) for other in self._all() if other != node]

    def into(self, node: int) -> list[tuple[int, int]]:
        return [(other, node) for other in self._all() if other != node]

    def _all(self) -> range:
        return range(1, self.nodes + 1)
