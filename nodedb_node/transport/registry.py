"""Which connection speaks for a peer's lane: the newest start of its process wins, a clone is refused altogether.

Invariant: at most one session per lane is used for sending. A start is (generation, nonce); generations only grow. The
same generation with another nonce means that two processes hold the same identity: nobody can tell which is right, so
neither may talk until one of them starts anew. A restarted peer is never kept out by its own past. When both sides
dialled at once, both keep the connection that the smaller node id dialled, and drain the other. Pure.
"""

from __future__ import annotations

from msgspec import Struct

from nodedb_node.ids import NodeId, Process
from nodedb_node.rpc.hello import Refusal, Why

LANES_MAX = 65_536  # of all peers, remembered


class Key(Struct, frozen=True):
    """A peer's lane; bulk connections are counted beside, and per direction."""

    peer: NodeId
    lane: Process
    bulk: bool = False
    dialled: bool = False  # by us; only told apart for bulk


class Start(Struct, frozen=True, gc=False):
    """A process of the peer, as its greeting names it."""

    generation: int
    nonce: bytes


class Admission(Struct, frozen=True):
    """The link is a session. close: links of earlier starts, with the reason; drain: links of the same start to finish
    with; active: whether this link is the one to send on (otherwise it is to be drained itself)."""

    close: tuple[tuple[int, Why], ...] = ()
    drain: tuple[int, ...] = ()
    active: bool = True


class Registry:
    """The links that stand for lanes of peers."""

    def __init__(self, us: NodeId) -> None:
        self._us = us
        self._starts: dict[tuple[NodeId, Process], Start] = {}
        self._clones: set[tuple[NodeId, Process]] = set()
        self._links: dict[Key, tuple[int, bool]] = {}

    def admit(self, key: Key, start: Start, link: int, dialled: bool) -> Admission | Refusal:
        """A greeted connection of this key."""
        lane = (key.peer, key.lane)
        known = self._starts.get(lane)
        if known is not None and start.generation < known.generation:
            return Refusal(Why.STALE_GENERATION, f"generation {start.generation} after {known.generation}")
        if known is not None and start.generation == known.generation:
            if start.nonce != known.nonce:
                self._clones.add(lane)
            if lane in self._clones:
                return Refusal(Why.CLONE, f"two processes are generation {start.generation} of this lane")
        if known is None and len(self._starts) >= LANES_MAX:
            return Refusal(Why.BUSY, "too many lanes are known")
        close: tuple[tuple[int, Why], ...] = ()
        if known is not None and start.generation > known.generation:
            close = tuple((old, Why.REPLACED) for old in self._drop(lane))
        self._starts[lane] = start
        self._clones.discard(lane)
        return self._choose(key, link, dialled, close)

    def clone_links(self, key: Key) -> tuple[int, ...]:
        """After a refusal as a clone: what of this lane is to be closed too."""
        return tuple(self._drop((key.peer, key.lane)))

    def gone(self, key: Key, link: int) -> None:
        """The link has ended."""
        if self._links.get(key, (None, False))[0] == link:
            del self._links[key]

    def active(self, key: Key) -> int | None:
        found = self._links.get(key)
        return None if found is None else found[0]

    def generation(self, peer: NodeId, lane: Process) -> int:
        """The newest seen, 0 = none."""
        known = self._starts.get((peer, lane))
        return 0 if known is None else known.generation

    def forget(self, peer: NodeId) -> None:
        """A removed node's starts; its links were closed by the caller."""
        for lane in [lane for lane in self._starts if lane[0] == peer]:
            del self._starts[lane]
            self._clones.discard(lane)

    def _choose(self, key: Key, link: int, dialled: bool, close: tuple[tuple[int, Why], ...]) -> Admission:
        old = self._links.get(key)
        if old is None:
            self._links[key] = (link, dialled)
            return Admission(close=close)
        old_link, old_dialled = old
        if dialled != old_dialled and self._keeps(old_dialled, key.peer):
            return Admission(close=close, active=False)
        self._links[key] = (link, dialled)
        return Admission(close=close, drain=(old_link,))

    def _keeps(self, dialled: bool, peer: NodeId) -> bool:
        """Whether a connection of this direction is the one that both sides keep."""
        return dialled == (self._us < peer)

    def _drop(self, lane: tuple[NodeId, Process]) -> list[int]:
        found = [key for key in self._links if (key.peer, key.lane) == lane]
        return [self._links.pop(key)[0] for key in found]
