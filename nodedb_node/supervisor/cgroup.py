"""What this process's cgroup allows of the machine: processor time and memory, a pure function of the files below
/proc and /sys/fs/cgroup.

Invariant: the tightest limit of the group and of those above it counts, in version 2 and in version 1. A container
sees its own group as the root, so the root is looked at too. A file that is missing is no limit.
"""

import re
from collections.abc import Callable, Iterator

Read = Callable[[str], str | None]  # a file's text by absolute path; None when there is none

UNLIMITED_BYTES = 1 << 60  # version 1 says 2^63 - 1 rounded down to a page for none


def cores_quota(read: Read) -> float | None:
    """Cores' worth of time; None = no limit."""
    limits = [limit for base in _bases(read, "") for limit in _quota_v2(read(f"{base}/cpu.max"))]
    limits += [limit for base in _bases(read, "cpu") for limit in _quota_v1(read, base)]
    return min(limits, default=None)


def memory_bytes(read: Read) -> int | None:
    """The least of the machine's memory and the groups' limits; None when nothing can be told."""
    total = re.search(r"^MemTotal:\s+(\d+) kB", read("/proc/meminfo") or "", re.M)
    limits = [int(total[1]) << 10] if total else []
    for base in _bases(read, ""):
        limits += _bytes(read(f"{base}/memory.max")) + _bytes(read(f"{base}/memory.high"))
    for base in _bases(read, "memory"):
        limits += _bytes(read(f"{base}/memory.limit_in_bytes"))
    return min(limits, default=None)


def _bases(read: Read, controller: str) -> Iterator[str]:
    """Directories of this process's group and those above it, for a controller of version 1; empty = version 2."""
    for line in (read("/proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == controller == "":
            yield from (f"/sys/fs/cgroup{up}" for up in _upwards(path))
        elif controller and controller in controllers.split(","):
            for mount in dict.fromkeys((controllers, controller)):
                yield from (f"/sys/fs/cgroup/{mount}{up}" for up in _upwards(path))


def _upwards(path: str) -> Iterator[str]:
    """The path and those above it; the root last, which is where a container finds its own."""
    path = path.rstrip("/")
    while path:
        yield path
        path = path.rpartition("/")[0]
    yield ""


def _quota_v2(text: str | None) -> list[float]:
    match = re.match(r"(\d+) (\d+)", text or "")
    return [int(match[1]) / int(match[2])] if match else []


def _quota_v1(read: Read, base: str) -> list[float]:
    quota, period = int(read(f"{base}/cpu.cfs_quota_us") or -1), int(read(f"{base}/cpu.cfs_period_us") or 0)
    return [quota / period] if quota > 0 and period > 0 else []


def _bytes(text: str | None) -> list[int]:
    """A number of bytes; "max" and version 1's largest number are no limit."""
    word = (text or "").strip()
    return [int(word)] if word.isdecimal() and int(word) < UNLIMITED_BYTES else []
