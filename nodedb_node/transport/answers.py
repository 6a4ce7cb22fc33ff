"""What was answered lately, per start of an asking process: a request asked again is not done again.

Invariant: (peer, lane, generation, nonce, id) names a request for good. While it is being worked on a second copy is
dropped, because its answer will come; once answered, the copy gets the same answer. Bounded per asker in number and
bytes: what fell out is done again, so only requests that bear it are asked again. Pure.
"""

from __future__ import annotations

from collections import OrderedDict

from nodedb_node.config import KIB
from nodedb_node.ids import NodeId, Process

ANSWERS_MAX = 1024
ANSWER_BYTES_MAX = 256 * KIB
ASKERS_MAX = 1024  # together at most 256 MiB, and only when all of them answer at length

Asker = tuple[NodeId, Process, int]
Reply = tuple[int, int, bytes]  # type, flags, body


class AnswerBook:
    """One receiver's memory."""

    def __init__(self) -> None:
        self._askers: OrderedDict[Asker, _Pages] = OrderedDict()

    def begin(self, asker: Asker, id: int) -> Reply | bool:
        """True: new, do it. False: it is being done. A reply: it was done."""
        pages = self._askers.get(asker)
        if pages is None:
            pages = self._askers[asker] = _Pages()
            while len(self._askers) > ASKERS_MAX:
                self._askers.popitem(last=False)
        return pages.begin(id)

    def end(self, asker: Asker, id: int, reply: Reply) -> None:
        pages = self._askers.get(asker)
        if pages is not None:
            pages.end(id, reply)

    def forget(self, peer: NodeId, lane: Process, before: int) -> None:
        """Starts of this lane older than `before` will not ask again."""
        for asker in [one for one in self._askers if one[0] == peer and one[1] == lane and one[2] < before]:
            del self._askers[asker]


class _Pages:
    __slots__ = ("_bytes", "_replies")

    def __init__(self) -> None:
        self._replies: OrderedDict[int, Reply | None] = OrderedDict()
        self._bytes = 0

    def begin(self, id: int) -> Reply | bool:
        if id in self._replies:
            return self._replies[id] or False
        self._replies[id] = None
        self._trim()
        return True

    def end(self, id: int, reply: Reply) -> None:
        if id in self._replies and self._replies[id] is None:
            self._replies[id] = reply
            self._bytes += len(reply[2])
            self._trim()

    def _trim(self) -> None:
        while len(self._replies) > ANSWERS_MAX or (self._bytes > ANSWER_BYTES_MAX and len(self._replies) > 1):
            _, old = self._replies.popitem(last=False)
            if old is not None:
                self._bytes -= len(old[2])
