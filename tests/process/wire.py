"""A blocking RESP2 connection for tests: whole replies as Python values, errors as values, no retries, no hidden
reconnects."""

from __future__ import annotations

import binascii
import socket
from collections.abc import Iterable
from types import TracebackType
from typing import Self

RECEIVE_BYTES = 1 << 16
SLOTS = 16384


class ErrorReply(Exception):
    """A RESP error as a value; str() is its text without the dash."""

    @property
    def kind(self) -> str:
        return str(self).split(" ", 1)[0]


Reply = bytes | int | None | ErrorReply | list["Reply"]


def encode(*words: bytes | str | int) -> bytes:
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


class Connection:
    """One socket. Every failure of it is an OSError (ConnectionError when the peer closed)."""

    def __init__(self, port: int, timeout_s: float = 10.0, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout_s)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pending = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def call(self, *words: bytes | str | int) -> Reply:
        self.socket.sendall(encode(*words))
        return self.read()

    def send(self, *commands: tuple[bytes | str | int, ...]) -> None:
        self.socket.sendall(b"".join(encode(*words) for words in commands))

    def pipeline(self, commands: Iterable[tuple[bytes | str | int, ...]]) -> list[Reply]:
        batch = tuple(commands)
        self.send(*batch)
        return [self.read() for _ in batch]

    def read(self) -> Reply:
        line = self.line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            return ErrorReply(rest.decode(errors="replace"))
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.exactly(int(rest) + 2)[:-2]
        if kind == b"*":
            return None if rest == b"-1" else [self.read() for _ in range(int(rest))]
        raise ValueError(f"not a RESP2 reply: {line[:80]!r}")

    def line(self) -> bytes:
        while True:
            end = self.pending.find(b"\r\n")
            if end >= 0:
                found, self.pending = self.pending[:end], self.pending[end + 2 :]
                return found
            self.more()

    def exactly(self, count: int) -> bytes:
        while len(self.pending) < count:
            self.more()
        found, self.pending = self.pending[:count], self.pending[count:]
        return found

    def more(self) -> None:
        data = self.socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        self.pending += data


def slot(key: bytes) -> int:
    """Redis Cluster's slot of a key, hash tags respected."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return binascii.crc_hqx(key, 0) % SLOTS


def slot_ports(port: int) -> dict[int, int]:
    """slot → worker port, as CLUSTER SLOTS says on this port."""
    with Connection(port) as link:
        ranges = link.call("CLUSTER", "SLOTS")
    assert isinstance(ranges, list), f"CLUSTER SLOTS answered {ranges!r}"
    owners: dict[int, int] = {}
    for entry in ranges:
        assert isinstance(entry, list) and isinstance(entry[2], list)
        first, last, owner = entry[0], entry[1], entry[2][1]
        assert isinstance(first, int) and isinstance(last, int) and isinstance(owner, int)
        owners.update(dict.fromkeys(range(first, last + 1), owner))
    return owners
