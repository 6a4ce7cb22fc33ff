"""The data directory: lock, identity, format, layout. World file.

Invariant: one supervisor per directory (LOCK, flock); files change by write, fsync, rename, fsync of the directory;
node.json is written last when a directory is made, so one that has it is whole. A directory of a newer format, or
with data but without identity, is refused and not touched. What is inside the workers' directories is theirs.
"""

import errno
import fcntl
import os
import secrets
import shutil
from typing import TypeVar

import msgspec
from msgspec import Struct

from nodedb_node.errors import UNREADABLE, Exit, StartError

FORMAT = 1
GROUPS_MIN = 8
GROUPS_MAX = 1024

T = TypeVar("T")


class NodeFile(Struct, frozen=True):
    """node.json: who this node is."""

    format: int
    node_id: str
    cluster_id: str
    generation: int  # starts of the node


class LayoutFile(Struct, frozen=True):
    """layout: which directory holds the workers' data, and for how many workers. Its rename is the switch."""

    number: int
    workers: int
    groups: int


class DataDir:
    """An open, locked data directory. close() unlocks it."""

    def __init__(self, path: str, lock_fd: int, node: NodeFile, layout: LayoutFile) -> None:
        self.path = path
        self.node = node
        self.layout = layout
        self._lock_fd = lock_fd

    @property
    def layout_dir(self) -> str:
        return self._dir(self.layout)

    def _dir(self, layout: LayoutFile) -> str:
        return os.path.join(self.path, f"layout-{layout.number}")

    def next_layout(self, workers: int) -> tuple[LayoutFile, str]:
        """An empty layout for another number of workers, and its directory; what a death left of one is removed."""
        layout = LayoutFile(self.layout.number + 1, workers, self.layout.groups)
        shutil.rmtree(self._dir(layout), ignore_errors=True)
        make_worker_dirs(self.path, layout)
        return layout, self._dir(layout)

    def switch(self, layout: LayoutFile) -> None:
        """From now on the new layout is the node's; the rename is the moment."""
        replace_file(self.path, "layout", msgspec.json.encode(layout))
        self.layout = layout

    def remove_others(self) -> None:
        """Layouts that are no longer, or not yet, the node's."""
        for name in os.listdir(self.path):
            if name.startswith("layout-") and os.path.join(self.path, name) != self.layout_dir:
                shutil.rmtree(os.path.join(self.path, name), ignore_errors=True)

    def close(self) -> None:
        os.close(self._lock_fd)


def open_data_dir(path: str, workers: int) -> DataDir:
    """Lock the directory and read it, or make it for this number of workers. Counts the start."""
    path = os.path.abspath(path)
    lock_fd = _lock(path)
    try:
        node, layout = _read(path, workers)
        node = msgspec.structs.replace(node, generation=node.generation + 1)
        replace_file(path, "node.json", msgspec.json.encode(node))
    except OSError as error:
        os.close(lock_fd)
        raise _refusal(path, error) from error
    except StartError:
        os.close(lock_fd)
        raise
    return DataDir(path, lock_fd, node, layout)


def _refusal(path: str, error: OSError) -> StartError:
    code = Exit.IO if error.errno == errno.EIO else Exit.CANT_CREATE
    reason = error.strerror or str(error)
    return StartError(code, f"data directory {path} cannot be used: {reason}; choose another with --data-dir")


def holder(path: str) -> str | None:
    """The process id of the node that runs on this directory; None when none does."""
    try:
        fd = os.open(os.path.join(path, "LOCK"), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return os.pread(fd, 32, 0).decode(errors="replace").strip() or "?"
    finally:
        os.close(fd)


def identity_of(path: str) -> NodeFile:
    """Whose directory it is, locked or not; StartError when it is nobody's."""
    raw = _contents(path, "node.json")
    if raw is None:
        raise StartError(Exit.NO_INPUT, f"{path} is not a node's data directory; name one with --data-dir")
    return _decoded(path, "node.json", raw, NodeFile)


def _lock(path: str) -> int:
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        fd = os.open(os.path.join(path, "LOCK"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _refusal(path, error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "?"
        os.close(fd)
        line = f"data directory {path} is locked by process {holder}; stop that node or choose another with --data-dir"
        raise StartError(Exit.TEMPORARY, line) from error
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _read(path: str, workers: int) -> tuple[NodeFile, LayoutFile]:
    raw = _contents(path, "node.json")
    if raw is None:
        _refuse_orphans(path)
        return _create(path, workers)
    node = _decoded(path, "node.json", raw, NodeFile)
    if node.format > FORMAT:
        line = f"data directory {path} has format {node.format}, newer than {FORMAT}; use a newer program"
        raise StartError(Exit.DATA, line)
    raw = _contents(path, "layout")
    if raw is None:
        raise StartError(Exit.DATA, f"data directory {path} has no file 'layout'; restore it from a backup")
    return node, _decoded(path, "layout", raw, LayoutFile)


def _contents(path: str, name: str) -> bytes | None:
    try:
        with open(os.path.join(path, name), "rb") as file:
            return file.read(1 << 16)
    except FileNotFoundError:
        return None


def _decoded(path: str, name: str, raw: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except UNREADABLE as error:
        raise StartError(Exit.DATA, f"{path}/{name} is damaged ({error}); restore it from a backup") from error


def _refuse_orphans(path: str) -> None:
    """A directory without identity may hold only what an interrupted first start leaves: empty directories of ours."""
    for name in os.listdir(path):
        ours = name in ("LOCK", "layout", "layout.tmp", "node.json.tmp")
        if not ours and not (name.startswith("layout-") and _only_directories(os.path.join(path, name))):
            line = f"data directory {path} holds '{name}' but no node.json; choose an empty one with --data-dir"
            raise StartError(Exit.DATA, line)


def _only_directories(path: str) -> bool:
    return not any(files for _, _, files in os.walk(path))


def _create(path: str, workers: int) -> tuple[NodeFile, LayoutFile]:
    layout = LayoutFile(number=1, workers=workers, groups=groups_for(workers))
    make_worker_dirs(path, layout)
    replace_file(path, "layout", msgspec.json.encode(layout))
    return NodeFile(FORMAT, secrets.token_hex(20), secrets.token_hex(16), 0), layout


def groups_for(workers: int) -> int:
    """max(8, 4 x workers), rounded up to a power of two, at most 1024: fixed for the life of the directory."""
    return min(GROUPS_MAX, 1 << (max(GROUPS_MIN, 4 * workers) - 1).bit_length())


def make_worker_dirs(path: str, layout: LayoutFile) -> None:
    """layout-N/worker-I/{wal,store}, each name synced in its directory."""
    base = os.path.join(path, f"layout-{layout.number}")
    for worker in range(layout.workers):
        for part in ("wal", "store"):
            os.makedirs(os.path.join(base, f"worker-{worker}", part), mode=0o700, exist_ok=True)
        sync_dir(os.path.join(base, f"worker-{worker}"))
    sync_dir(base)


def replace_file(path: str, name: str, content: bytes) -> None:
    """Atomically and durably: after a power cut the file holds the old bytes or the new ones."""
    temporary = os.path.join(path, f"{name}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(content + b"\n")
        while rest:
            rest = rest[os.write(fd, rest) :]  # a nearly full disk takes a part, then refuses
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, os.path.join(path, name))
    sync_dir(path)


def sync_dir(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
