"""The order of changes to the users, and which worker acts by which version.

Invariants: a change is durable before anybody hears of it, and done only when every worker that serves clients acts by
it; a worker serves clients only after its welcome, which comes behind everything that was sent to it before. So nobody
acts by an older version once the change is answered. Changes are compared with the version they were made from, so none
is lost. Pure: the caller stores and sends what `post` and the return values say.
"""

from collections.abc import Callable
from typing import NamedTuple

from msgspec import Struct

from nodedb_node.acl.messages import Change, Result, Users


class Letter(NamedTuple):
    """To be sent to a worker."""

    worker: int
    message: Struct | None  # None = its welcome
    request: int = 0


class _Waiting(NamedTuple):
    worker: int
    request: int
    version: int
    missing: set[int]


class Book:
    """`store(puts, drops, version)` makes a change durable before it returns."""

    def __init__(
        self,
        users: dict[bytes, bytes],
        version: int,
        settled: bool,
        store: Callable[[list[tuple[bytes, bytes]], list[bytes], int], None],
    ) -> None:
        self._users, self.version, self._settled, self._store = dict(users), version, settled, store
        self._sent: set[int] = set()  # workers that were sent the set in this life of theirs
        self._arrived: set[int] = set()  # and said that they have it
        self._serving: set[int] = set()  # and were welcomed
        self._waiting: list[_Waiting] = []

    def came(self, worker: int) -> list[Letter]:
        """A worker's life began."""
        replies = self.went(worker)
        self._sent.add(worker)
        users = sorted(self._users.items())
        return [*replies, Letter(worker, Users(self.version, True, not self._settled, users, []))]

    def went(self, worker: int) -> list[Letter]:
        """A worker's life ended; changes that waited for it go on without."""
        for known in (self._sent, self._arrived, self._serving):
            known.discard(worker)
        self._waiting = [waiting for waiting in self._waiting if waiting.worker != worker]
        return self._confirmed(worker, self.version)

    def acked(self, worker: int, version: int) -> list[Letter]:
        self._arrived.add(worker)
        return [*self._confirmed(worker, version), *self._welcomes()]

    def change(self, worker: int, request: int, change: Change) -> list[Letter]:
        if change.expected != self.version:
            return [Letter(worker, Result(False), request)]
        letters = []
        if change.puts or change.drops:
            self._store(change.puts, change.drops, self.version + 1)
            self.version += 1
            self._users.update(change.puts)
            for name in change.drops:
                self._users.pop(name, None)
            news = Users(self.version, False, False, change.puts, change.drops)
            letters = [Letter(other, news) for other in sorted(self._sent)]
        self._settled = self._settled or change.settles
        self._waiting.append(_Waiting(worker, request, self.version, set(self._serving) if letters else set()))
        return [*letters, *self._confirmed(-1, 0), *self._welcomes()]

    def _confirmed(self, worker: int, version: int) -> list[Letter]:
        letters = []
        for waiting in list(self._waiting):
            if version >= waiting.version:
                waiting.missing.discard(worker)
            if not waiting.missing:
                self._waiting.remove(waiting)
                letters.append(Letter(waiting.worker, Result(True), waiting.request))
        return letters

    def _welcomes(self) -> list[Letter]:
        fresh = sorted(self._arrived - self._serving) if self._settled else []
        self._serving.update(fresh)
        return [Letter(worker, None) for worker in fresh]
