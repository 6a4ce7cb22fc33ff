"""csrc/ringset.h: messages between the processes of a node. World file.

Invariant: a message is delivered whole, once and in order to the process it was meant for, or not at all; a peer's
death is told before anything of its next life is delivered. Workers drive their ring set from C, once per turn; this is
the same ring set for a process whose loop is Python, and for tests. RingSet says what every implementation keeps.
"""

import errno
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from nodedb_node._native import ffi
from nodedb_node._native import lib as _lib
from nodedb_node.native.shm import Pointer, SharedMemory, check


class _Lib(Protocol):
    """The functions used here, as csrc/ringset.h declares them."""

    ND_RING_MESSAGE_BYTES_MAX: int

    def nd_ringset_open(self, shm: Pointer, me: int, bells: Sequence[int], overflow: int, out: Pointer) -> int: ...
    def nd_ringset_close(self, ring_set: Pointer) -> None: ...
    def nd_ringset_generation(self, ring_set: Pointer) -> int: ...
    def nd_ringset_push(
        self, ring_set: Pointer, peer: int, kind: int, request_id: int, iov: Pointer, n: int
    ) -> int: ...
    def nd_ringset_publish_all(self, ring_set: Pointer) -> int: ...
    def nd_ringset_next(self, ring_set: Pointer, peer: Pointer, message: Pointer) -> int: ...
    def nd_ringset_sleep(self, ring_set: Pointer) -> int: ...
    def nd_ringset_wake(self, ring_set: Pointer, rung: int) -> None: ...
    def nd_ringset_peer_event(self, ring_set: Pointer, event: Pointer) -> int: ...


lib: _Lib = _lib

MESSAGE_BYTES_MAX = lib.ND_RING_MESSAGE_BYTES_MAX


class Message(NamedTuple):
    peer: int
    generation: int  # of the peer that sent it
    type: int  # 1..255
    request_id: int
    data: bytes


class PeerEvent(NamedTuple):
    """A peer's state or generation changed; another generation = what was in flight to it has no answer."""

    peer: int
    state: int
    generation: int
    generation_before: int


class PeerDown(Exception):
    """The peer does not run; try again when an event says that it does."""


class CorruptRing(OSError):
    """A ring holds nonsense and is fenced: the process that reads it should exit and be started again."""


class RingSet(Protocol):
    """All ring ends of one process. One turn: wake, events, next until None, push, publish, sleep."""

    bell: int

    @property
    def generation(self) -> int: ...
    def push(self, peer: int, type_: int, request_id: int, data: bytes) -> bool:
        """False = ring and overflow are full. Raises PeerDown, ValueError for a message that is too large."""

    def publish(self) -> int:
        """Make everything pushed visible; returns the bells rung."""

    def next(self) -> Message | None: ...
    def sleep(self) -> bool:
        """True = nothing to do, wait for the bell; False = run another turn."""

    def wake(self, rung: bool) -> None: ...
    def event(self) -> PeerEvent | None: ...
    def close(self) -> None: ...


class NativeRingSet:
    """The real one; bells by process, borrowed."""

    def __init__(self, shm: SharedMemory, process: int, bells: Sequence[int], overflow_bytes: int) -> None:
        out = ffi.new("nd_ringset **")
        check(lib.nd_ringset_open(shm.handle, process, bells, overflow_bytes, out), "rings")
        self.handle: Pointer = out[0]
        self.bell = bells[process]
        self._peer, self._message = ffi.new("uint32_t *"), ffi.new("nd_ring_msg *")
        self._event = ffi.new("nd_peer_event *")

    def close(self) -> None:
        lib.nd_ringset_close(self.handle)
        self.handle = ffi.NULL

    @property
    def generation(self) -> int:
        return lib.nd_ringset_generation(self.handle)

    def push(self, peer: int, type_: int, request_id: int, data: bytes) -> bool:
        part = ffi.new("nd_arg *", {"ptr": ffi.from_buffer("uint8_t[]", data), "len": len(data)})
        code = lib.nd_ringset_push(self.handle, peer, type_, request_id, part, 1)
        if code == -errno.EHOSTDOWN:
            raise PeerDown(f"process {peer} does not run")
        if code == -errno.EMSGSIZE:
            raise ValueError(f"a message of {len(data)} bytes is larger than {MESSAGE_BYTES_MAX}")
        return check(code, "push") == 1

    def publish(self) -> int:
        return lib.nd_ringset_publish_all(self.handle)

    def next(self) -> Message | None:
        code = lib.nd_ringset_next(self.handle, self._peer, self._message)
        if code == -errno.EBADMSG:
            raise CorruptRing(errno.EBADMSG, f"the ring from process {self._peer[0]} holds nonsense")
        if check(code, "ring") == 0:
            return None
        m = self._message
        return Message(self._peer[0], m.generation, m.type, m.request_id, bytes(ffi.buffer(m.data, m.len)))

    def sleep(self) -> bool:
        return lib.nd_ringset_sleep(self.handle) == 1

    def wake(self, rung: bool) -> None:
        lib.nd_ringset_wake(self.handle, rung)

    def event(self) -> PeerEvent | None:
        """Raises OSError ESTALE when this process itself was declared dead."""
        if check(lib.nd_ringset_peer_event(self.handle, self._event), "process table") == 0:
            return None
        e = self._event
        return PeerEvent(e.peer, e.state, e.generation, e.generation_before)
