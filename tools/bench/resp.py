"""The few words of RESP a load needs: encode commands, count whole simple replies. No general client."""

from __future__ import annotations

import socket

KEYS_DEFAULT = 1_000_000
CHUNK = 1000


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def key(number: int) -> bytes:
    """The name redis-benchmark -r gives key number."""
    return b"key:%012d" % number


def ask(port: int, *words: bytes, timeout_s: float = 5.0) -> bytes:
    """One command on a fresh connection; the first chunk of its reply."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as link:
        link.sendall(command(*words))
        return link.recv(1 << 16)


def fill(port: int, keys: int = KEYS_DEFAULT, value_bytes: int = 64) -> None:
    """SET every key once, pipelined; returns when every one is acknowledged."""
    value = b"v" * value_bytes
    with socket.create_connection(("127.0.0.1", port), timeout=60) as link:
        for first in range(0, keys, CHUNK):
            numbers = range(first, min(keys, first + CHUNK))
            link.sendall(b"".join(command(b"SET", key(number), value) for number in numbers))
            expect_oks(link, len(numbers))


def expect_oks(link: socket.socket, count: int) -> None:
    missing = count * 5
    while missing:
        data = link.recv(min(missing, 1 << 16))
        if not data or data[:1] == b"-":
            raise ConnectionError(f"the server refused a write while filling: {data[:200]!r}")
        missing -= len(data)
