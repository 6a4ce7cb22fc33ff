"""What waits to be sent to one lane, per class, bounded in bytes; and the calls that wait for their answers.

Invariant: an offer that is refused leaves nothing behind, one that is taken is handed out once, in order. A call ends
exactly once: answered, refused, cancelled or past its time. Pure.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator

from nodedb_node.config import KIB, MIB
from nodedb_node.ids import NodeId, Process
from nodedb_node.rpc.frame import MESSAGE_BYTES_MAX, Frame, Kind, encoded_bytes
from nodedb_node.transport.interface import Done

# Waiting for one lane, before transport has given it to the connection; each holds the class's largest message.
QUEUE_BYTES_MAX: dict[Kind, int] = {
    Kind.CONTROL: 2 * MIB,
    Kind.LOG: 32 * MIB,
    Kind.QUERY: 32 * MIB,
    Kind.BULK: 4 * MIB,
}
# Given to the connection and not acknowledged yet, by class: what a slow peer can make us keep twice.
WINDOW_BYTES: dict[Kind, int] = {
    Kind.CONTROL: 256 * KIB,
    Kind.LOG: 8 * MIB,
    Kind.QUERY: 8 * MIB,
    Kind.BULK: 1 * MIB,
}
# Answers have their own allowance above the limit: a queue full of questions must not keep them back.
REPLY_RESERVE_BYTES = 1 * MIB
CALLS_MAX = 65_536  # of one process, waiting

assert all(QUEUE_BYTES_MAX[kind] > MESSAGE_BYTES_MAX[kind] for kind in Kind)


class Waiting:
    """A frame in a queue. number: of the call, 0 = none; deadline_us: 0 = none."""

    __slots__ = ("deadline_us", "frame", "number", "size")

    def __init__(self, frame: Frame, number: int, deadline_us: int) -> None:
        self.frame = frame
        self.number = number
        self.deadline_us = deadline_us
        self.size = encoded_bytes(frame)


class ClassQueue:
    """First in, first out."""

    def __init__(self, kind: Kind) -> None:
        self._limit = QUEUE_BYTES_MAX[kind]
        self._waiting: deque[Waiting] = deque()
        self.bytes = 0
        self.refused = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, waiting: Waiting, reserve: int = 0) -> bool:
        """False: full."""
        if self.bytes + waiting.size > self._limit + reserve:
            self.refused += 1
            return False
        self._waiting.append(waiting)
        self.bytes += waiting.size
        return True

    def take(self, bytes_max: int) -> Iterator[Waiting]:
        """From the front until bytes_max is used up; the last one may go above it."""
        while self._waiting and bytes_max > 0:
            first = self._waiting.popleft()
            self.bytes -= first.size
            bytes_max -= first.size
            yield first

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._waiting)

    def put_back(self, waiting: Waiting) -> None:
        """To the front, also above the limit: it was accepted before."""
        self._waiting.appendleft(waiting)
        self.bytes += waiting.size

    def drop_oneway(self) -> None:
        """Take out what nobody waits for: after a lost session it is stale."""
        kept = [waiting for waiting in self._waiting if waiting.number]
        self._waiting = deque(kept)
        self.bytes = sum(waiting.size for waiting in kept)


class Call:
    """A request of ours. link: the connection it was given to, 0 = still in the queue."""

    __slots__ = ("again", "deadline_us", "done", "frame", "lane", "link", "number", "peer", "sent_us")

    def __init__(
        self, number: int, peer: NodeId, lane: Process, frame: Frame, deadline_us: int, done: Done, again: bool
    ) -> None:
        self.number = number
        self.peer = peer
        self.lane = lane
        self.frame = frame
        self.deadline_us = deadline_us
        self.done = done
        self.again = again
        self.link = 0
        self.sent_us = 0


class Calls:
    """The calls of a process, by number. Numbers are never used twice: (generation, number) names a call for good."""

    def __init__(self) -> None:
        self._open: dict[int, Call] = {}
        self._deadlines: list[tuple[int, int]] = []
        self._last = 0

    def __len__(self) -> int:
        return len(self._open)

    def next_number(self) -> int:
        self._last += 1
        return self._last

    def add(self, call: Call) -> None:
        assert len(self._open) < CALLS_MAX
        self._open[call.number] = call
        heapq.heappush(self._deadlines, (call.deadline_us, call.number))

    def get(self, number: int) -> Call | None:
        return self._open.get(number)

    def end(self, number: int) -> Call | None:
        """The call, which is over now; None when it was over before."""
        call = self._open.pop(number, None)
        if len(self._deadlines) > 64 and len(self._deadlines) > 4 * len(self._open):
            self._deadlines = [(one.deadline_us, one.number) for one in self._open.values()]
            heapq.heapify(self._deadlines)
        return call

    def expired(self, now_us: int) -> list[Call]:
        """Past their time, which are over now."""
        found = []
        while self._deadlines and self._deadlines[0][0] <= now_us:
            call = self._open.pop(heapq.heappop(self._deadlines)[1], None)
            if call is not None:
                found.append(call)
        return found

    def next_deadline_us(self) -> int | None:
        while self._deadlines and self._deadlines[0][1] not in self._open:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def on_link(self, link: int) -> list[Call]:
        """Given to this connection and not answered."""
        return [call for call in self._open.values() if call.link == link]

    def to(self, peer: NodeId) -> list[Call]:
        return [call for call in self._open.values() if call.peer == peer]
