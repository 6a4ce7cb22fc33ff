"""A redis-server of the version that replies are compared with, and raw RESP over a socket.

Nothing is installed or kept running: the server lives as long as the context, on a port of its own, without a disk.
"""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

VERSION = "7.0.15"
START_S = 10.0
PROGRAMS = ("redis-server", "redis-check-rdb", "redis-check-aof")  # one binary: what it does follows from argv[0]


def program() -> str | None:
    """Path of a binary that runs as redis-server when it is called that, or None."""
    return next((path for path in map(shutil.which, PROGRAMS) if path), None)


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def redis_server(*options: str) -> Iterator[int]:
    """Port of a running server with no persistence; ended on exit."""
    path, port = program(), free_port()
    assert path is not None, "ask program() first"
    argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *options]
    process = subprocess.Popen(argv, executable=path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await_listening(port, process)
        yield port
    finally:
        process.kill()
        process.wait()


def _await_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.01)  # between looks at the condition, which has a deadline
    raise RuntimeError(f"redis-server does not listen on port {port}")


def encode(argv: tuple[bytes, ...]) -> bytes:
    """A command as RESP."""
    return b"*%d\r\n" % len(argv) + b"".join(b"$%d\r\n%s\r\n" % (len(arg), arg) for arg in argv)


def reply_end(data: bytes, at: int) -> int:
    """Where the reply that begins at `at` ends, or -1 while it is incomplete."""
    line = data.find(b"\r\n", at)
    if line < 0:
        return -1
    kind, end = data[at : at + 1], line + 2
    if kind in b"+-:_#,(":
        return end
    size = int(data[at + 1 : line])
    if kind in b"$=!":
        end += 0 if size < 0 else size + 2
        return end if end <= len(data) else -1
    for _ in range(max(0, size) * (2 if kind == b"%" else 1)):
        end = reply_end(data, end)
        if end < 0:
            return -1
    return end


class Connection:
    """Sends commands in pipelines and returns each reply's bytes."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._socket = socket.create_connection((host, port), timeout=30)
        self._data = b""

    def run(self, *argv: bytes) -> bytes:
        """One command's reply."""
        return self.pipeline([argv])[0]

    def pipeline(self, commands: list[tuple[bytes, ...]]) -> list[bytes]:
        """The replies of commands that are sent at once."""
        self._socket.sendall(b"".join(map(encode, commands)))
        return [self._reply() for _ in commands]

    def _reply(self) -> bytes:
        while (end := reply_end(self._data, 0) if self._data else -1) < 0:
            more = self._socket.recv(1 << 20)
            if not more:
                raise ConnectionResetError("the server closed the connection")
            self._data += more
        reply, self._data = self._data[:end], self._data[end:]
        return reply

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
