"""Snapshots of a simulated process: the disk's twin of nodedb_node.storage.transfers, and the shell's part that does a
turn's work with it, one piece after the other, as slow and as faulty as the run asks for.

The bytes are the encoded state, so that what is installed is what came over the network, chunk by chunk. Invariant: a
chunk is on the disk for good only once synced; the store's checkpoint changes in one step, at the end of an install.
What is sent, asked again, refused or quarantined is decided by nodedb_node.multiraft, never here.
"""

import errno
from collections import deque
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any
from zlib import crc32

import msgspec

from nodedb_node.multiraft import books
from nodedb_node.multiraft.snapshot.limits import SnapshotLimits
from nodedb_node.multiraft.snapshot.messages import (
    DIGEST_BYTES,
    Accept,
    Chunk,
    ChunkAck,
    Done,
    Manifest,
    Offer,
    Reason,
    Refusal,
)
from nodedb_node.multiraft.snapshot.receiver import Begin, Discard, Write
from nodedb_node.multiraft.snapshot.sender import Read
from nodedb_node.multiraft.snapshot.work import Cut, Install, Release, SnapshotDamaged, Work
from nodedb_node.raft.messages import Configuration
from tests.sim.checkers import require
from tests.sim.store import Snapshot, ordered, thawed

BULK = frozenset({Accept, Chunk, ChunkAck, Done, Offer, Refusal})
BULK_LANE = 1000  # its number beside those of the workers' lanes
BALLAST = bytes(2500)  # so that the smallest state takes many chunks, and several at a time are throttled
CHUNKS = 12  # about so many, however large the state grows
LIMITS = SnapshotLimits(
    chunk_bytes=256,
    window_chunks=4,
    incoming_max=1,
    waiting_max=1,
    rate_bytes_per_s=6_000,
    stall_us=300_000,
    offers_max=8,
    idle_us=20_000_000,
    corrupt_max=1,
    quarantine_us=5_000_000,
    retry_us=500_000,
    kept_us=3_000_000,
)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Snapshot).decode


class Partial:
    """A snapshot that arrives, as the disk holds it: each chunk behind its checksum."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.chunks: dict[int, tuple[int, bytes]] = {}
        self.dirty: list[int] = []

    def cut_power(self, keep: Callable[[], bool]) -> None:
        for number in dict.fromkeys(self.dirty):  # a chunk may have been written again
            if not keep():
                del self.chunks[number]
        self.dirty = []

    def prefix(self) -> int:
        """Leading chunks that check."""
        number = 0
        while self.chunk(number) is not None:
            number += 1
        return number

    def chunk(self, number: int) -> bytes | None:
        crc, data = self.chunks.get(number, (0, b"?"))
        return data if crc32(data) == crc else None


class TwinDisk:
    """SnapshotDisk over a simulated disk. replica_of: which replica of a group lives here."""

    def __init__(self, disk: Any, replica_of: Callable[[int], int]) -> None:
        self._disk, self._replica_of = disk, replica_of
        self._cuts: dict[tuple[int, int, bytes], bytes] = {}
        self._made: dict[int, Manifest] = {}

    def cut(self, group: int, chunk_bytes: int) -> Iterator[None]:
        snapshot: Snapshot | None = self._disk.checkpoints.get((group, self._replica_of(group)))
        if snapshot is None:
            raise OSError(errno.ENOENT, "the group has no checkpoint")
        yield
        data = _encode(ordered(snapshot)) + BALLAST
        chunk_bytes = min(max(chunk_bytes, len(data) // CHUNKS), LIMITS.rate_bytes_per_s // 4)
        digest = blake2b(data, digest_size=DIGEST_BYTES).digest()
        manifest = Manifest(group, snapshot.applied, snapshot.term, b"", len(data), chunk_bytes, digest)
        self._cuts[_key(manifest)] = data
        self._made[group] = manifest

    def made(self, group: int) -> Manifest:
        return self._made.pop(group)

    def read(self, manifest: Manifest, number: int) -> bytes:
        data = self._cuts.get(_key(manifest))
        if data is None:
            raise OSError(errno.ENOENT, "no such cut")
        begin = number * manifest.chunk_bytes
        return data[begin : begin + manifest.chunk_length(number)]

    def release(self, manifest: Manifest) -> None:
        self._cuts.pop(_key(manifest), None)

    def begin(self, manifest: Manifest) -> None:
        self._disk.partials[manifest.group] = Partial(manifest)

    def write(self, manifest: Manifest, number: int, data: bytes) -> None:
        partial = self._partial(manifest)
        partial.chunks[number] = (crc32(data), data)
        partial.dirty.append(number)

    def install(self, manifest: Manifest, state: bytes) -> Iterator[None]:
        partial = self._partial(manifest)
        partial.dirty = []
        yield
        chunks = [partial.chunk(number) for number in range(manifest.chunks)]
        data = b"".join(chunk or b"" for chunk in chunks)
        if None in chunks or blake2b(data, digest_size=DIGEST_BYTES).digest() != manifest.digest:
            raise SnapshotDamaged("the whole differs from its digest")
        yield
        snapshot = thawed(_decode(data[: -len(BALLAST)]), state)
        carried = books.carried_of(state, Configuration())
        place = (snapshot.applied, snapshot.term, snapshot.config_index, snapshot.configuration)
        told = (manifest.index, manifest.entry_term, carried.config_index, carried.configuration)
        require(place == told, "snapshot is what was offered", f"group {manifest.group}: {place} and {told}")
        self._disk.checkpoints[manifest.group, self._replica_of(manifest.group)] = snapshot

    def discard(self, manifest: Manifest) -> None:
        partial = self._disk.partials.get(manifest.group)
        if partial is not None and partial.manifest == manifest:
            del self._disk.partials[manifest.group]

    def found(self) -> list[tuple[Manifest, int]]:
        return [(partial.manifest, partial.prefix()) for _, partial in sorted(self._disk.partials.items())]

    def close(self) -> None:
        self._cuts.clear()

    def _partial(self, manifest: Manifest) -> Partial:
        partial: Partial | None = self._disk.partials.get(manifest.group)
        if partial is None or partial.manifest != manifest:
            raise OSError(errno.ENOENT, "no such snapshot")
        return partial


class Worker:
    """Of one life of a process: its queue of work, and what can go wrong with each piece."""

    def __init__(self, process: Any) -> None:
        self.process, self.world, self.life = process, process.world, process.life
        self.disk = TwinDisk(process.disk, lambda group: process.logs[group].replica)
        self.queue: deque[Work] = deque()
        self.running = False

    def restore(self) -> None:
        """What the last life left."""
        for manifest, chunks in self.disk.found():
            self.world.fault("snapshot.found")
            self.process.machine.multi.snapshot_found(self.process.now(), manifest, chunks)

    def take(self, work: Any) -> None:
        for row in work:
            if type(row) is Discard:
                self.queue = deque(old for old in self.queue if type(old) is not Install or old[0] != row.manifest)
            self.queue.append(row)
        self._go_on()

    def _go_on(self) -> None:
        if self.queue and not self.running:
            self.running = True
            slow = type(self.queue[0]) in (Cut, Install)
            self.world.after(
                self.world.between(50, 30_000 if slow else 900), self.process.complete, self.life, self._next
            )

    def _next(self, now: int) -> None:
        self.running, self.process.stirred = False, True
        if self.queue:
            self._do(now, self.queue.popleft())
        if self.process.life == self.life:
            self._go_on()

    def _do(self, now: int, row: Work) -> None:
        multi = self.process.machine.multi
        if type(row) is Cut:
            multi.snapshot_cut(now, row.group, self._cut(row.group))
        elif type(row) is Read:
            multi.snapshot_read(now, row.transfer, row.number, self._read(row))
        elif type(row) is Begin or type(row) is Write:
            self._write(now, row)
        elif type(row) is Install:
            self._install(now, row)
        elif type(row) is Discard:
            self.disk.discard(row.manifest)
        else:
            assert type(row) is Release
            self.disk.release(row.manifest)

    def _cut(self, group: int) -> Manifest | None:
        if group not in self.process.logs or self._fails("fail"):
            return None
        try:
            for _ in self.disk.cut(group, LIMITS.chunk_bytes):
                pass
        except OSError:
            return None
        return self.disk.made(group)

    def _read(self, row: Read) -> bytes | None:
        try:
            return None if self._fails("fail") else self.disk.read(row.manifest, row.number)
        except OSError:
            return None

    def _write(self, now: int, row: Begin | Write) -> None:
        process, manifest = self.process, row.manifest
        multi = process.machine.multi
        if process.log.full or self._fails("full"):
            self.world.fault("snapshot.no-space")
            multi.snapshot_not_written(now, manifest, Reason.NO_SPACE)
        elif self._fails("fail"):
            multi.snapshot_not_written(now, manifest, Reason.FAILED)
        elif type(row) is Begin:
            self.disk.begin(manifest)
        elif not process.crash_here("in-transfer"):
            assert type(row) is Write
            try:
                self.disk.write(manifest, row.number, row.data)
            except OSError:
                return  # discarded meanwhile
            self._rot(manifest, row.number)
            multi.snapshot_written(now, manifest, row.number)

    def _rot(self, manifest: Manifest, number: int) -> None:
        if self._fails("rot"):
            crc, data = self.process.disk.partials[manifest.group].chunks[number]
            self.process.disk.partials[manifest.group].chunks[number] = (crc, _flipped(data))

    def _install(self, now: int, row: Install) -> None:
        process, manifest = self.process, row.manifest
        group, multi = manifest.group, process.machine.multi
        if process.crash_here("before-install"):
            return
        try:
            for _ in self.disk.install(manifest, row.state):
                pass
        except SnapshotDamaged:
            self.world.fault("snapshot.damage-found")
            multi.snapshot_not_installed(now, manifest, Reason.CORRUPT)
            return
        if process.crash_here("after-install"):
            return
        snapshot = process.disk.checkpoints[group, process.logs[group].replica]
        store = process.stores[group]
        newer = snapshot.applied > store.applied
        require(newer, "install of what is newer", f"group {group}: {snapshot.applied} at {store.applied}")
        process._check_snapshot(group, snapshot)
        store.install(snapshot)
        for index in [i for i in process.waiting[group] if i <= snapshot.applied]:
            del process.waiting[group][index]  # their fate is not known here: the client asks again
        self.world.fault("snapshot.installed")
        multi.snapshot_installed(now, manifest)

    def _fails(self, kind: str) -> bool:
        cluster = self.process.cluster
        if not cluster.crashing or not self.world.chance(getattr(cluster.spec.snapshot, kind)):
            return False
        self.world.fault(f"snapshot.{kind}")
        return True

    def send(self, bulk: dict[Any, list[Any]]) -> None:
        """Each message a frame of its own, so that chunks get lost and overtake each other."""
        process = self.process
        for peer, messages in bulk.items():
            target = process.cluster.process(peer, process.worker)
            for message in messages:
                if type(message) is Chunk and self._fails("corrupt"):
                    message = msgspec.structs.replace(message, data=_flipped(message.data))
                frame = (process, process.generation, [message], crc32(_encode(message)))
                process.cluster.network.send(process, target, process.worker + BULK_LANE, frame)


def _flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def _key(manifest: Manifest) -> tuple[int, int, bytes]:
    return manifest.group, manifest.index, manifest.digest
