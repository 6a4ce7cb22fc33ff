"""The files of snapshots: a group's rows spooled for sending, what arrives kept until it is whole, and its install.

A spool is one file (byte table: docs/formats/snapshot.md), written once from the last checkpoint, so that any chunk can
be read again as long as a peer needs it. An incoming file keeps each chunk behind its own checksum: a restart finds the
checked prefix and goes on from there. Invariant: a spool appears under its name only when it is whole and synced, and
rows become visible per vShard in one synced transaction, the group's header last; a death in between leaves vShards
that are ahead of the group's index, which replay skips per vShard. Every long piece of work is a generator of small
steps, for the caller to spread over its turns. World file.
"""

import errno
import hashlib
import os
import struct
from collections.abc import Iterator
from typing import Any

import msgspec

from nodedb_node._native import ffi
from nodedb_node.multiraft.snapshot.messages import DIGEST_BYTES, Manifest
from nodedb_node.multiraft.snapshot.work import SnapshotDamaged
from nodedb_node.native import kernels
from nodedb_node.native.move import ROW_BYTES_MAX, Cut, Install, Seal, put_group
from nodedb_node.native.store import GROUP_STATE_BYTES_MAX, GroupHeader, Store

MAGIC = b"NDSNAP01"
HEAD = struct.Struct("<8sIIQQI4x")  # magic, group, vShards, index, term, bytes of the state that follows
SECTION = struct.Struct("<IQQQ4x")  # vShard, applied index, rows, hash; then pieces until one of length 0
PIECE = struct.Struct("<I")
SLOT = struct.Struct("<II")  # CRC-32C, length
MANIFEST_BYTES = 64 * 1024  # what an incoming file keeps before its first chunk
STEP_BYTES = 256 * 1024


class Spool:
    """One group's snapshot on this node's disk, for any number of transfers. Close removes the file."""

    def __init__(self, path: str, floor_bytes: int = 0) -> None:
        self._path, self._floor_bytes = path, floor_bytes
        self._fd = -1
        self.manifest: Manifest | None = None

    def build(self, store: Store, group: int, vshards: list[int], chunk_bytes: int) -> Iterator[None]:
        """Steps; after the last one `manifest` is there, without configuration, which is Raft's to say.

        OSError: the disk is full or failed; nothing is left behind.
        """
        # The header first: rows cut later can only be newer than its index, and replay skips what they have seen.
        header = store.group(group)
        partial = self._path + ".partial"
        fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
            size_bytes = 0
            for piece in _stream(store, group, vshards, header):
                _need_space(fd, len(piece), self._floor_bytes, partial)
                _write_all(fd, piece)
                digest.update(piece)
                size_bytes += len(piece)
                yield
            _publish(fd, partial, self._path)
        except BaseException:
            os.close(fd)
            os.unlink(partial)
            raise
        self._fd = fd
        place = (group, header.applied_index, header.applied_term, b"")
        self.manifest = Manifest(*place, size_bytes, chunk_bytes, digest.digest())

    def read(self, number: int) -> bytes:
        """A chunk. OSError when the disk fails."""
        assert self.manifest is not None
        length = self.manifest.chunk_length(number)
        data = os.pread(self._fd, length, number * self.manifest.chunk_bytes)
        if len(data) != length:
            raise OSError(errno.EIO, "the snapshot is shorter than it was", self._path)
        return data

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            os.unlink(self._path)
            self._fd = -1


class Incoming:
    """A snapshot that is being received: chunks in any order, each behind its checksum."""

    def __init__(self, path: str, fd: int, manifest: Manifest) -> None:
        """Use create or restore."""
        self._path, self._fd, self.manifest = path, fd, manifest

    @classmethod
    def create(cls, path: str, manifest: Manifest, floor_bytes: int = 0) -> "Incoming":
        """An empty place. OSError: no space above the floor; nothing is left behind."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        head = msgspec.msgpack.encode(manifest)
        try:
            if len(head) > MANIFEST_BYTES - SLOT.size:
                raise OSError(errno.EFBIG, "the group's configuration is too long for a manifest", path)
            size_bytes = MANIFEST_BYTES + manifest.size_bytes + manifest.chunks * SLOT.size
            _need_space(fd, size_bytes, floor_bytes, path)
            os.pwrite(fd, SLOT.pack(kernels.crc32c(head), len(head)) + head, 0)
            # Reserved now: a full disk is found before the transfer, not at its end.
            os.posix_fallocate(fd, 0, size_bytes)
        except OSError:
            os.close(fd)
            os.unlink(path)
            raise
        return cls(path, fd, manifest)

    @classmethod
    def restore(cls, path: str) -> tuple["Incoming", int] | None:
        """What a restart finds, with the number of leading chunks that check; None (and no file): nothing usable."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        manifest = _read_manifest(fd)
        if manifest is None:
            os.close(fd)
            os.unlink(path)
            return None
        found = cls(path, fd, manifest)
        number = 0
        while number < manifest.chunks and found._chunk(number) is not None:
            number += 1
        return found, number

    def write(self, number: int, data: bytes) -> None:
        """Bytes of a chunk that the receiver has checked. OSError: the disk is full or failed."""
        slot = SLOT.pack(kernels.crc32c(data), len(data))
        _pwrite_all(self._fd, slot + data, self._offset(number))

    def install(self, store: Store, state: bytes) -> Iterator[None]:
        """Steps: sync, verify the digest, then switch each vShard and at last the group's header, with this state (the
        sender's own is of no use here).

        SnapshotDamaged: the bytes are not what the manifest promised; nothing was switched if the digest differs.
        """
        os.fsync(self._fd)
        digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for number in range(self.manifest.chunks):
            digest.update(self._need(number))
            yield
        if digest.digest() != self.manifest.digest:
            raise SnapshotDamaged("the whole differs from its digest")
        yield from _install(_Reader(self), store, self.manifest, state)

    def close(self, remove: bool) -> None:
        os.close(self._fd)
        if remove:
            os.unlink(self._path)

    def _offset(self, number: int) -> int:
        return MANIFEST_BYTES + number * (SLOT.size + self.manifest.chunk_bytes)

    def _need(self, number: int) -> bytes:
        data = self._chunk(number)
        if data is None:
            raise SnapshotDamaged(f"chunk {number} does not check any more")
        return data

    def _chunk(self, number: int) -> bytes | None:
        length = self.manifest.chunk_length(number)
        data = os.pread(self._fd, SLOT.size + length, self._offset(number))
        if len(data) != SLOT.size + length or SLOT.unpack_from(data) != (kernels.crc32c(data[SLOT.size :]), length):
            return None
        return data[SLOT.size :]


class _Reader:
    """The chunks as one stream."""

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming
        self._number = 0
        self._rest = memoryview(b"")

    def take(self, length: int) -> bytes:
        parts = []
        while length:
            if not self._rest:
                if self._number == self._incoming.manifest.chunks:
                    raise SnapshotDamaged("it ends in the middle")
                self._rest = memoryview(self._incoming._need(self._number))
                self._number += 1
            parts.append(self._rest[:length])
            length -= len(parts[-1])
            self._rest = self._rest[len(parts[-1]) :]
        return b"".join(parts)

    def at_end(self) -> bool:
        return not self._rest and self._number == self._incoming.manifest.chunks


def _stream(store: Store, group: int, vshards: list[int], header: GroupHeader) -> Iterator[bytes]:
    """The snapshot's bytes, in pieces."""
    head = HEAD.pack(MAGIC, group, len(vshards), header.applied_index, header.applied_term, len(header.state))
    yield head + header.state
    buffer = ffi.new("uint8_t[]", STEP_BYTES)
    for vshard in vshards:
        while (opened := _cut(store, vshard)) is None:
            yield b""
        with opened as cut:
            yield SECTION.pack(vshard, *cut.seal)
            while length := cut.read(buffer):
                if length < 0:  # a row larger than usual
                    buffer = ffi.new("uint8_t[]", ROW_BYTES_MAX)
                    continue
                yield PIECE.pack(length) + bytes(ffi.buffer(buffer, length))
            yield PIECE.pack(0)


def _cut(store: Store, vshard: int) -> Cut | None:
    """None: a checkpoint is merging the vShard; in a later turn it is done."""
    try:
        return Cut(store, vshard)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return None
        raise


def _install(reader: _Reader, store: Store, manifest: Manifest, state: bytes) -> Iterator[None]:
    magic, group, vshards, index, term, state_bytes = HEAD.unpack(reader.take(HEAD.size))
    told = (MAGIC, manifest.group, manifest.index, manifest.entry_term)
    if (magic, group, index, term) != told or state_bytes > GROUP_STATE_BYTES_MAX:
        raise SnapshotDamaged("its head is another snapshot's")
    reader.take(state_bytes)
    for _ in range(vshards):
        vshard, *seal = SECTION.unpack(reader.take(SECTION.size))
        yield from _install_vshard(reader, store, vshard, group, Seal(*seal))
    if not reader.at_end():
        raise SnapshotDamaged("bytes follow its end")
    put_group(store, group, GroupHeader(index, term, state))


def _install_vshard(reader: _Reader, store: Store, vshard: int, group: int, seal: Seal) -> Iterator[None]:
    with Install(store, vshard, group) as install:
        while length := PIECE.unpack(reader.take(PIECE.size))[0]:
            if length > ROW_BYTES_MAX:
                raise SnapshotDamaged(f"a piece of {length} bytes")
            install.write(reader.take(length), length)
            yield
        try:
            install.commit(seal)
        except OSError as error:
            if error.errno == errno.EBADMSG:
                raise SnapshotDamaged(f"rows of vShard {vshard} are not what its section says") from error
            raise
    yield


def _read_manifest(fd: int) -> Manifest | None:
    data = os.pread(fd, MANIFEST_BYTES, 0)
    if len(data) < SLOT.size:
        return None
    crc, length = SLOT.unpack_from(data)
    head = data[SLOT.size : SLOT.size + length]
    if len(head) != length or kernels.crc32c(head) != crc:
        return None
    return msgspec.msgpack.decode(head, type=Manifest)


def _need_space(fd: int, size_bytes: int, floor_bytes: int, path: str) -> None:
    """So much leaves the log its floor: below it a node refuses its clients' writes."""
    disk = os.fstatvfs(fd)
    if disk.f_bavail * disk.f_frsize < floor_bytes + size_bytes:
        raise OSError(errno.ENOSPC, "a snapshot leaves the log no room above its floor", path)


def _write_all(fd: int, data: Any) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _pwrite_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _publish(fd: int, partial: str, path: str) -> None:
    os.fsync(fd)
    os.rename(partial, path)
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
