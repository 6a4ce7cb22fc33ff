"""Whether files were replaced or changed since they were looked at. World file: stat.

Invariant: a look costs one stat per file and reads nothing; a file that is missing for a moment, while it is replaced,
is a change when it is back.
"""

import os
from collections.abc import Sequence


class Watched:
    """Some files that are used together."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = [path for path in paths if path]
        self._seen = self._look()

    def changed(self) -> bool:
        """Since the last call, or since the start; False while one of them cannot be looked at."""
        now = self._look()
        if now == self._seen or None in now:
            return False
        self._seen = now
        return True

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_mark(path) for path in self._paths]


def _mark(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
