"""Control's end of the rings: hands the users to workers, takes their changes and what they refused. World file.

Invariant: a worker's death and birth are noticed in the order of what it sent, and every turn ends with the bell armed;
a full ring is waited for, never dropped from: what a worker must hear is kept by the ring set's overflow, and a worker
that reads nothing for so long is one that the supervisor replaces.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import Struct

from nodedb_node import log
from nodedb_node.acl import messages
from nodedb_node.acl.book import Book, Letter
from nodedb_node.acl.denials import Denials
from nodedb_node.control.memory import Memory
from nodedb_node.ids import CONTROL
from nodedb_node.metadata.catalog import CannotStore, Catalog
from nodedb_node.native import shm
from nodedb_node.native.ringset import Message, NativeRingSet, PeerDown
from nodedb_node.supervisor.boot import Boot

T = TypeVar("T", bound=Struct)
KINDS = {messages.Users: messages.USERS, messages.Result: messages.RESULT}
MESSAGES_PER_TURN = 256


class Post:
    """Of one control process."""

    def __init__(self, boot: Boot, memory: Memory, catalog: Catalog) -> None:
        users, version = catalog.users()
        clients = boot.config.clients
        settled = not (clients.password_file or (clients.users_file and version == 0))
        self._book = Book(users, version, settled, catalog.put_users)
        self._denials = Denials()
        self._alive: set[int] = set()
        self._rings = NativeRingSet(memory.shared, CONTROL, boot.bell_fds, boot.config.ring.overflow_bytes)
        self.bell = self._rings.bell
        for worker in range(1, boot.workers + 1):  # what changes from here on is told as events
            self._life(worker, memory.shared.info(worker).state, False)
        self.turn()

    def turn(self) -> None:
        """The bell rang, or may have: everything that came, and all that follows from it."""
        self._rings.wake(True)
        while True:
            while event := self._rings.event():
                self._life(event.peer, event.state, event.generation != event.generation_before)
            for _ in range(MESSAGES_PER_TURN):
                message = self._rings.next()
                if message is None:
                    break
                self._take(message)
            self._rings.publish()
            if self._rings.sleep():
                return

    def _life(self, worker: int, state: int, another: bool) -> None:
        """The worker's state, and whether it is another life than the one known."""
        alive = state in (shm.STARTING, shm.READY)
        if alive and (another or worker not in self._alive):
            self._alive.add(worker)
            self._send(self._book.came(worker))
        elif not alive and worker in self._alive:
            self._alive.discard(worker)
            self._send(self._book.went(worker))

    def _take(self, message: Message) -> None:
        worker, book = message.peer, self._book
        match message.type:
            case messages.CHANGE:
                self._change(worker, message.request_id, _decoded(message.data, messages.Change))
            case messages.ACK:
                self._send(book.acked(worker, _decoded(message.data, messages.Ack).version))
            case messages.DENIED:
                self._denials.add(_decoded(message.data, messages.Denial))
            case messages.READ_LOG:
                self._read_log(worker, message)
            case _:
                raise AssertionError(f"a worker sent a message of type {message.type}")

    def _change(self, worker: int, request: int, change: messages.Change) -> None:
        try:
            self._send(self._book.change(worker, request, change))
        except CannotStore as error:
            log.error("users were not changed", reason=error)
            self._send([Letter(worker, messages.Result(False, str(error)), request)])

    def _read_log(self, worker: int, message: Message) -> None:
        asked = _decoded(message.data, messages.ReadLog)
        if asked.reset:
            self._denials.reset()
        found = [] if asked.reset else self._denials.newest(asked.count)
        self._push(worker, messages.LOG, message.request_id, msgspec.msgpack.encode(found))

    def _send(self, letters: list[Letter]) -> None:
        for letter in letters:
            if letter.message is None:
                self._push(letter.worker, messages.WELCOME, 0, b"")
            else:
                data = messages.encode(letter.message)
                self._push(letter.worker, KINDS[type(letter.message)], letter.request, data)

    def _push(self, worker: int, kind: int, request: int, data: bytes) -> None:
        try:
            if not self._rings.push(worker, kind, request, data):
                log.error("a worker does not read its ring; it is told nothing more", worker=worker - 1)
        except PeerDown:
            log.debug("a worker died before it was told", worker=worker - 1)


def _decoded(data: bytes, kind: type[T]) -> T:
    return msgspec.msgpack.decode(data, type=kind)
