"""A small ext4 of its own, on a loop device below /tmp, that can lose power or fill up. Needs root.

Invariant: close() leaves no mount, loop device or image behind. cut() drops everything the file system has not been
told to make durable (FS_IOC_SHUTDOWN without flushing its journal), which is what a power loss leaves on a disk that
honours flushes.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import tempfile
import time
from pathlib import Path

FS_IOC_SHUTDOWN = 0x8004587D
SHUTDOWN_WITHOUT_LOG_FLUSH = 2
UMOUNT_SECONDS_MAX = 10.0
MIB = 1 << 20


def unavailable() -> str:
    """Why loop mounts cannot be had here, or an empty string."""
    if os.geteuid() != 0:
        return "needs root to mount a loop device"
    if not Path("/dev/loop-control").exists():
        return "needs /dev/loop-control"
    return ""


class LoopFilesystem:
    """Mounted at .path between construction or mount() and unmount()."""

    def __init__(self, mib: int) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="loopfs-", dir="/tmp"))
        self.path = self.base / "mnt"
        self.image = self.base / "image"
        # A shared mount, so that unmounting reaches mount namespaces made meanwhile (`ip netns exec` makes one): with a
        # copy of the mount anywhere, the file system that was cut would be the one mounted again.
        run("mount", "--bind", str(self.base), str(self.base))
        run("mount", "--make-shared", str(self.base))
        self.path.mkdir()
        with self.image.open("wb") as image:
            image.truncate(mib * MIB)
        run("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(self.image))
        self.device = run("losetup", "--find", "--show", str(self.image)).strip()
        self.mount()

    def mount(self) -> None:
        run("mount", self.device, str(self.path))

    def unmount(self) -> None:
        """Waits for killed processes to let go of their files."""
        deadline = time.monotonic() + UMOUNT_SECONDS_MAX
        while os.path.ismount(self.path):
            done = subprocess.run(["umount", str(self.path)], capture_output=True, text=True, check=False)
            assert done.returncode == 0 or time.monotonic() < deadline, f"cannot unmount: {done.stderr}"
            time.sleep(0.01 if done.returncode else 0)

    def cut(self) -> None:
        """Power is gone: every later write fails, and what was not synced before is lost at the next mount."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, struct.pack("I", SHUTDOWN_WITHOUT_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def free_bytes(self) -> int:
        state = os.statvfs(self.path)
        return state.f_bavail * state.f_frsize

    def close(self) -> None:
        self.unmount()
        run("losetup", "--detach", self.device)
        self.image.unlink()
        self.path.rmdir()
        run("umount", str(self.base))
        self.base.rmdir()


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr.strip()}"
    return done.stdout
