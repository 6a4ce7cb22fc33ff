"""Reads what the kernel tells in small files (/proc, /sys). World file.

Invariant: a file that is missing, forbidden or vanishes is None, never an error: who asks has a default. Nothing here
knows what a file means; the pure functions of pinplan.py, cgroup.py and cli/examine.py do.
"""

BYTES_MAX = 1 << 20


def read_text(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(BYTES_MAX)
    except OSError:
        return None
