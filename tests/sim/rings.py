"""The rings of a node without memory, descriptors or processes: for simulations, with the real ones' contract.

Invariant: what csrc/ringset.h promises, kept by plain lists; tests/conformance/ring runs one suite over both. A message
carries the generations of both ends at its push; nothing is delivered to or from another life.
"""

from collections import deque
from dataclasses import dataclass, field

from nodedb_node.native.ringset import MESSAGE_BYTES_MAX, Message, PeerDown, PeerEvent
from nodedb_node.native.shm import DOWN, NONE, STARTING

BURST = 64


@dataclass
class Life:
    """A row of the process table, and the process's bell."""

    generation: int = 1
    state: int = NONE
    sleeping: bool = False
    rung: bool = False


@dataclass
class Lane:
    """One direction between two processes: what is published, for the lives it was published between."""

    lives: tuple[int, int] = (0, 0)
    messages: deque[Message] = field(default_factory=deque)


class SimMemory:
    """What the processes of a simulated node share."""

    def __init__(self, processes: int, lane_bytes: int) -> None:
        self.lane_bytes = lane_bytes
        self.version = 0
        self.lives = [Life() for _ in range(processes)]
        self.lanes = {(a, b): Lane() for a in range(processes) for b in range(processes) if a != b}

    def started(self, process: int) -> None:
        self.lives[process].state = STARTING
        self._changed()

    def died(self, process: int) -> int:
        life = self.lives[process]
        life.state, life.generation = DOWN, life.generation + 1
        self._changed()
        return life.generation

    def _changed(self) -> None:
        self.version += 1
        for life in self.lives:
            life.rung = True


class SimRingSet:
    """All ends of one simulated process."""

    def __init__(self, memory: SimMemory, process: int) -> None:
        self.bell = -1
        self._memory, self._self = memory, process
        self._life = memory.lives[process].generation
        self._version = memory.version
        self._cursor = self._burst = 0
        self._known = {p: (row.generation, row.state) for p, row in enumerate(memory.lives)}
        self._pushed: dict[int, list[Message]] = {p: [] for p in self._known if p != process}
        self._events: deque[PeerEvent] = deque()
        for peer in self._pushed:
            self._begin(peer)
        self.wake(False)

    @property
    def generation(self) -> int:
        return self._life

    def _begin(self, peer: int) -> None:
        """A new epoch towards this peer."""
        lane = self._memory.lanes[self._self, peer]
        lane.lives = (self._life, self._known[peer][0])
        lane.messages.clear()
        self._pushed[peer].clear()

    def push(self, peer: int, type_: int, request_id: int, data: bytes) -> bool:
        if len(data) > MESSAGE_BYTES_MAX:
            raise ValueError(f"a message of {len(data)} bytes is larger than {MESSAGE_BYTES_MAX}")
        if self._known[peer][1] == DOWN:
            raise PeerDown(f"process {peer} does not run")
        waiting = [*self._memory.lanes[self._self, peer].messages, *self._pushed[peer]]
        if waiting and sum(len(m.data) for m in waiting) + len(data) > self._memory.lane_bytes:
            return False
        self._pushed[peer].append(Message(self._self, self._life, type_, request_id, bytes(data)))
        return True

    def publish(self) -> int:
        rung = 0
        for peer, messages in self._pushed.items():
            if not messages:
                continue
            self._memory.lanes[self._self, peer].messages.extend(messages)
            messages.clear()
            life = self._memory.lives[peer]
            rung += life.sleeping
            life.rung, life.sleeping = life.rung or life.sleeping, False
        return rung

    def _readable(self, peer: int) -> deque[Message] | None:
        lane = self._memory.lanes[peer, self._self]
        mine = lane.lives == (self._known[peer][0], self._life)
        return lane.messages if mine and lane.messages else None

    def next(self) -> Message | None:
        for _ in range(len(self._known) + 1):
            messages = None if self._cursor == self._self else self._readable(self._cursor)
            if messages is not None and self._burst < BURST:
                self._burst += 1
                return messages.popleft()
            self._cursor, self._burst = (self._cursor + 1) % len(self._known), 0
        return None

    def sleep(self) -> bool:
        busy = self._version != self._memory.version or bool(self._events)
        busy = busy or any(self._readable(peer) for peer in self._pushed)
        self._memory.lives[self._self].sleeping = not busy
        return not busy

    def wake(self, rung: bool) -> None:
        life = self._memory.lives[self._self]
        life.sleeping, life.rung = False, life.rung and not rung

    def event(self) -> PeerEvent | None:
        if self._version != self._memory.version:
            self._version = self._memory.version
            self._compare()
        return self._events.popleft() if self._events else None

    def _compare(self) -> None:
        for peer in self._pushed:
            life = self._memory.lives[peer]
            before, state = self._known[peer]
            if (before, state) == (life.generation, life.state):
                continue
            self._events.append(PeerEvent(peer, life.state, life.generation, before))
            self._known[peer] = (life.generation, life.state)
            if before != life.generation:
                self._begin(peer)

    def close(self) -> None:
        self.wake(False)
