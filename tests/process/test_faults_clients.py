"""Clients that misbehave hurt themselves only: malformed bytes, endless commands, replies never read.

A well-behaved recorder runs beside them and must see every promise kept, by the same processes as before.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.node import Node, wait_for
from tests.process.recorder import Recorder, longest_gap, shared_targets
from tests.process.scene import GAP_SECONDS_MAX, new_node
from tests.process.wire import Connection, ErrorReply, encode, slot, slot_ports
from tests.seeds import run_seed
from tools.bench.scrape import scrape

OUTPUT_BYTES_MAX = 20 << 20
UNREAD_REPLIES = 100
MEMORY_BYTES_MAX = 300 << 20
"""Of a worker in these tests: much less than the replies that nobody reads."""
MUTATIONS = 300

MALFORMED = [
    b"*1\r\n$-5\r\nPING\r\n",
    b"*1\r\n$99999999999\r\n",
    b"*99999999999\r\n",
    b"*1\r\n:5\r\n",
    b"*1\r\n$4\r\nPINGxx",
    b"*2\r\n$3\r\nGET\r\n*1\r\n$1\r\na\r\n",
    b"*1\r\n" * 5000 + b"$4\r\nPING\r\n",
    b"*1\r\n$4294967296\r\n",
    b"*1\r\n$18446744073709551617\r\nx\r\n",
    b"*1\r\n$+4\r\nPING\r\n",
    b"*1\r\n$ 4\r\nPING\r\n",
    b"*1\r\n$4a\r\nPING\r\n",
    b"*x\r\n",
    b"x" * 70_000 + b"\r\n",
    b'set "unbalanced\r\n',
]
"""Each is answered with an error, and its connection closed."""
OVERSIZED = [b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$600000000\r\n", b"*2000000\r\n"]
VALID = [
    encode("SET", "fuzz:a", "1"),
    encode("GET", "fuzz:a"),
    encode("PING"),
    b"PING\r\n",
    encode("APPEND", "fuzz:b", "x" * 999),
]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with new_node(tmp_path, clients__output_bytes_max=OUTPUT_BYTES_MAX) as found:
        yield found.start()


@contextlib.contextmanager
def undisturbed(node: Node) -> Iterator[None]:
    """Everything inside must leave other clients and every process alone."""
    roles, begun = node.pids(), time.monotonic()
    recorder = Recorder(shared_targets(node.port, 3), seed=1)
    recorder.start()
    recorder.wait_acked(200)
    yield
    recorder.wait_acked(200)
    recorder.stop()
    assert node.pids() == roles, "a process died"
    gap = longest_gap(recorder.history, begun, time.monotonic())
    assert gap < GAP_SECONDS_MAX, f"others stood still for {gap:.2f} s"
    recorder.verify(node.port)


def closed_with_error(node: Node, data: bytes) -> bytes:
    """Everything the node sends until it closes the connection."""
    with Connection(node.port, 5.0) as link:
        link.socket.sendall(data)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := link.socket.recv(1 << 16):
                received += chunk
        return received


def test_malformed_commands_are_answered_and_their_connection_closed(node: Node) -> None:
    with undisturbed(node):
        for data in MALFORMED + OVERSIZED:
            received = closed_with_error(node, data)
            assert received.startswith(b"-ERR"), f"{data[:60]!r} was answered {received[:200]!r}"


def test_a_storm_of_malformed_commands_does_not_fill_the_log(node: Node) -> None:
    storm = 120
    for _ in range(storm):
        closed_with_error(node, b"*x\r\n")
    wait_for(lambda: told(node) == storm, f"{storm} lines, or counts of lines not written", 15.0)
    assert len(protocol_error_lines(node)) < storm / 2


def test_a_storm_within_one_turn_is_counted_whole(node: Node) -> None:
    """More than the engine keeps lines for until Python looks."""
    storm, before = 200, told(node)
    links = [Connection(node.port) for _ in range(storm)]
    assert links[-1].call("PING") == b"PONG", "all are accepted"
    worker = node.pids()["worker-0"]
    os.kill(worker, signal.SIGSTOP)
    for link in links:
        link.socket.sendall(b"*x\r\n")
    os.kill(worker, signal.SIGCONT)
    wait_for(lambda: told(node) == before + storm, f"{storm} lines, or counts of lines not written", 15.0)
    for link in links:
        link.socket.close()


def told(node: Node) -> int:
    """Errors that the log knows of: a line each, and what the lines count as suppressed."""
    lines = protocol_error_lines(node)
    counts = [int(line.rpartition("suppressed=")[2]) for line in lines if "suppressed=" in line]
    closing = sum("number=" not in line for line in lines)
    return len(lines) - closing + sum(counts)


def protocol_error_lines(node: Node) -> list[str]:
    return [line for line in node.log().splitlines() if "protocol error" in line]


def test_an_error_comes_after_the_replies_before_it(node: Node) -> None:
    assert closed_with_error(node, encode("PING") + b"*x\r\n").startswith(b"+PONG\r\n-ERR Protocol error")


def test_truncated_commands_at_every_byte_have_no_effect(node: Node) -> None:
    whole = encode("SET", "truncated", "value")
    with undisturbed(node):
        for end in range(1, len(whole)):
            with Connection(node.port) as link:
                link.socket.sendall(whole[:end])
        with Connection(node.port) as link:
            assert link.call("GET", "truncated") is None


def test_random_mutations_hurt_nobody(node: Node) -> None:
    seed = run_seed()
    rng = random.Random(seed)
    with undisturbed(node):
        for number in range(MUTATIONS):
            data = bytearray(b"".join(rng.choices(VALID, k=rng.randint(1, 6))))
            for _ in range(rng.randint(1, 4)):
                where = rng.randrange(len(data))
                data[where : where + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 5))
            with contextlib.suppress(ConnectionError), Connection(node.port, 5.0) as link:
                link.socket.sendall(bytes(data))
                link.socket.shutdown(1)
                try:
                    while link.socket.recv(1 << 16):
                        pass
                except TimeoutError:
                    raise AssertionError(f"seed {seed} number {number}: no end after {bytes(data)[:200]!r}") from None


def test_one_byte_at_a_time_is_a_whole_command(node: Node) -> None:
    with Connection(node.port) as link:
        for byte in encode("SET", "slow", "writer"):
            link.socket.sendall(bytes([byte]))
        assert link.read() == b"OK"
        assert link.call("GET", "slow") == b"writer"


def output_limit_closed(node: Node) -> float:
    return scrape(node.http_port).total("output_limit_closed_total")


@pytest.mark.parametrize("owner", [True, False], ids=["own-core", "any-core"])
def test_slow_reader_is_cut_at_the_output_limit(node: Node, owner: bool) -> None:
    """A gibibyte of replies is asked for in one piece and not read: it is never made."""
    value = b"v" * (10 << 20)
    with Connection(node.port) as link:
        assert link.call("SET", "big", value) == b"OK"
    port = slot_ports(node.port)[slot(b"big")] if owner else node.port
    before = output_limit_closed(node)
    with undisturbed(node), Connection(port, receive_buffer=4096) as reader:
        reader.send(*[("GET", "big")] * UNREAD_REPLIES)
        wait_for(lambda: output_limit_closed(node) > before, "the reader to be cut", 15.0)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while chunk := reader.socket.recv(1 << 20):
                received += len(chunk)
        assert received < UNREAD_REPLIES * len(value), "the node sent everything: nothing was cut"
    peaks = [peak_bytes(pid) for role, pid in node.pids().items() if role.startswith("worker")]
    assert max(peaks) < MEMORY_BYTES_MAX, f"{peaks}: replies were made for a client that does not read"


def peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def test_a_pipeline_larger_than_the_output_limit_is_served_to_who_reads_it(node: Node) -> None:
    value = b"v" * (10 << 20)
    with Connection(node.port) as link:
        assert link.call("SET", "big", value) == b"OK"
    with undisturbed(node), Connection(slot_ports(node.port)[slot(b"big")]) as reader:
        reader.send(*[("GET", "big")] * 30)
        for _ in range(30):
            assert reader.read() == value


def test_unknown_commands_and_arities_use_the_words_of_redis(node: Node) -> None:
    with Connection(node.port) as link:
        unknown, arity = link.call("NOSUCH", "a", "b"), link.call("GET")
        assert isinstance(unknown, ErrorReply) and isinstance(arity, ErrorReply)
        assert str(unknown) == "ERR unknown command 'NOSUCH', with args beginning with: 'a' 'b' "
        assert str(arity) == "ERR wrong number of arguments for 'get' command"
        assert link.call("PING") == b"PONG"
