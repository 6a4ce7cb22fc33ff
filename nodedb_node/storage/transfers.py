"""The snapshots of one worker: a directory of spools and incoming files beside its store (multiraft.snapshot.work's
SnapshotDisk).

Invariant: a file is either of a transfer that lives or found again at the next start: spools of earlier lives are
removed there, as transfers do not survive their sender; of what arrived, the chunks that check are kept. World file.
"""

import errno
import os
from collections.abc import Callable, Iterator, Sequence

from nodedb_node.multiraft.snapshot.messages import Manifest
from nodedb_node.native.store import Store
from nodedb_node.storage.snapshots import Incoming, Spool

SPOOL, INCOMING = "cut-", "in-"


class SnapshotFiles:
    """Owner of the directory, which is made if it is not there."""

    def __init__(
        self, path: str, store: Store, vshards_of: Callable[[int], Sequence[int]], floor_bytes: int = 0
    ) -> None:
        """floor_bytes: free space that snapshots leave to the log."""
        self._path, self._store, self._vshards_of, self._floor_bytes = path, store, vshards_of, floor_bytes
        os.makedirs(path, exist_ok=True)
        self._spools: dict[tuple[int, int, bytes], Spool] = {}
        self._incoming: dict[int, Incoming] = {}
        self._made: dict[int, Manifest] = {}
        self._number = 0
        for name in os.listdir(path):
            if name.startswith(SPOOL):
                os.unlink(os.path.join(path, name))

    def cut(self, group: int, chunk_bytes: int) -> Iterator[None]:
        if self._store.group(group).applied_index == 0:
            raise OSError(errno.ENOENT, "no checkpoint holds the group yet", self._path)
        self._number += 1
        spool = Spool(os.path.join(self._path, f"{SPOOL}{group}-{self._number}"), self._floor_bytes)
        yield from spool.build(self._store, group, list(self._vshards_of(group)), chunk_bytes)
        assert spool.manifest is not None
        key = _key(spool.manifest)
        if key in self._spools:
            self._spools[key].close()
        self._spools[key] = spool
        self._made[group] = spool.manifest

    def made(self, group: int) -> Manifest:
        return self._made.pop(group)

    def read(self, manifest: Manifest, number: int) -> bytes:
        spool = self._spools.get(_key(manifest))
        if spool is None:
            raise OSError(errno.ENOENT, "no such cut", self._path)
        return spool.read(number)

    def release(self, manifest: Manifest) -> None:
        spool = self._spools.pop(_key(manifest), None)
        if spool is not None:
            spool.close()

    def begin(self, manifest: Manifest) -> None:
        before = self._incoming.pop(manifest.group, None)
        if before is not None:
            before.close(remove=True)
        name = os.path.join(self._path, f"{INCOMING}{manifest.group}")
        self._incoming[manifest.group] = Incoming.create(name, manifest, self._floor_bytes)

    def write(self, manifest: Manifest, number: int, data: bytes) -> None:
        self._known(manifest).write(number, data)

    def install(self, manifest: Manifest, state: bytes) -> Iterator[None]:
        yield from self._known(manifest).install(self._store, state)

    def discard(self, manifest: Manifest) -> None:
        known = self._incoming.get(manifest.group)
        if known is not None and known.manifest == manifest:
            del self._incoming[manifest.group]
            known.close(remove=True)

    def found(self) -> list[tuple[Manifest, int]]:
        rows = []
        for name in sorted(os.listdir(self._path)):
            restored = Incoming.restore(os.path.join(self._path, name)) if name.startswith(INCOMING) else None
            if restored is not None:
                incoming, chunks = restored
                self._incoming[incoming.manifest.group] = incoming
                rows.append((incoming.manifest, chunks))
        return rows

    def close(self) -> None:
        """What arrived stays, cuts do not."""
        for spool in self._spools.values():
            spool.close()
        for incoming in self._incoming.values():
            incoming.close(remove=False)
        self._spools, self._incoming = {}, {}

    def _known(self, manifest: Manifest) -> Incoming:
        incoming = self._incoming.get(manifest.group)
        if incoming is None or incoming.manifest != manifest:
            raise OSError(errno.ENOENT, "no such snapshot", self._path)
        return incoming


def _key(manifest: Manifest) -> tuple[int, int, bytes]:
    return manifest.group, manifest.index, manifest.digest
