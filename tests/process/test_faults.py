"""Processes die, stop and return under load: nothing acknowledged is lost, nothing happens twice, the other cores serve
on.

Each test runs a whole node with two workers; seeds are printed with every failure.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.node import Node, alive, wait_for
from tests.process.recorder import REPLY_SECONDS_MAX, longest_gap
from tests.process.scene import GAP_SECONDS_MAX, load_on, new_node, owned_key, shared_connection
from tests.process.wire import ErrorReply
from tests.seeds import run_seed

RESTART_SECONDS_MAX = 10.0
PARENT_DEATH_SECONDS_MAX = 1.0
DEADLINE_SECONDS = 1.0
DEADLINE_SLACK_SECONDS = 1.5


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """Two workers, not started yet, so that a test can set its environment first."""
    with new_node(tmp_path) as found:
        yield found


@pytest.fixture
def seed() -> int:
    return run_seed()


def test_killed_worker_loses_nothing_and_the_other_serves_on(node: Node, seed: int) -> None:
    node.start()
    recorder = load_on(node, seed)
    for victim in random.Random(seed).choices((0, 1), k=3):
        before = node.pids()
        begun = time.monotonic()
        os.kill(before[f"worker-{victim}"], signal.SIGKILL)
        recorder.wait_acked(200, RESTART_SECONDS_MAX, node.worker_ports[victim])
        gap = longest_gap(
            (one for one in list(recorder.history) if one.port == node.worker_ports[1 - victim]),
            begun,
            time.monotonic(),
        )
        assert gap < GAP_SECONDS_MAX, f"the other worker stood still for {gap:.2f} s"
        after = node.pids()
        assert after[f"worker-{victim}"] != before[f"worker-{victim}"]
        assert after[f"worker-{1 - victim}"] == before[f"worker-{1 - victim}"]
    recorder.wait_acked(300)
    recorder.stop()
    recorder.verify(node.port)


def test_killed_control_does_not_touch_data_traffic(node: Node, seed: int) -> None:
    node.start()
    recorder = load_on(node, seed)
    before = node.pids()
    begun = time.monotonic()
    os.kill(before["control"], signal.SIGKILL)
    wait_for(lambda: node.pids().get("control") not in (None, before["control"]), "control restarted")
    recorder.wait_acked(300)
    for worker in (0, 1):
        port = node.worker_ports[worker]
        gap = longest_gap((one for one in list(recorder.history) if one.port == port), begun, time.monotonic())
        assert gap < GAP_SECONDS_MAX, f"worker {worker} stood still for {gap:.2f} s"
    recorder.stop()
    recorder.verify(node.port)
    after = node.pids()
    assert {role: pid for role, pid in before.items() if role != "control"} == {
        role: pid for role, pid in after.items() if role != "control"
    }


def test_killed_supervisor_takes_its_children_along_and_a_new_one_finds_everything(node: Node, seed: int) -> None:
    node.start()
    recorder = load_on(node, seed)
    for _ in range(2):
        children = list(node.pids().values())
        node.signal(signal.SIGKILL)
        node.wait(PARENT_DEATH_SECONDS_MAX)
        wait_for(lambda: not any(map(alive, children)), "children died", PARENT_DEATH_SECONDS_MAX)  # noqa: B023
        node.start()
        recorder.wait_acked(300)
    recorder.stop()
    recorder.verify(node.port)


def test_write_in_flight_to_a_dying_worker_is_unknown_or_retryable_never_silent(node: Node) -> None:
    node.start()
    key = owned_key(node, 0)
    with shared_connection(node, 1, REPLY_SECONDS_MAX) as link:
        assert link.call("SET", key, "before") == b"OK"
        victim = node.pids()["worker-0"]
        os.kill(victim, signal.SIGSTOP)
        link.send(("SET", key, "during"), ("GET", key), ("PING",))
        os.kill(victim, signal.SIGKILL)
        write, read, pong = link.read(), link.read(), link.read()
        assert (isinstance(write, ErrorReply) and write.kind in ("UNKNOWN", "TRYAGAIN", "DEADLINE")) or write == b"OK"
        assert read in (b"before", b"during") or (
            isinstance(read, ErrorReply) and read.kind in ("TRYAGAIN", "DEADLINE")
        )
        assert pong == b"PONG"
        wait_for(
            lambda: link.call("GET", key) in (b"before", b"during"), "the key is readable again", RESTART_SECONDS_MAX
        )
        final = link.call("GET", key)
        assert final == b"during" if write == b"OK" else final in (b"before", b"during")
        if isinstance(write, ErrorReply) and write.kind != "UNKNOWN":
            assert final == b"before", f"answered {write} and applied all the same"


def test_stopped_worker_means_deadline_errors_in_time_and_others_unharmed(node: Node, seed: int) -> None:
    node.settings["clients.deadline_ms"] = int(DEADLINE_SECONDS * 1000)
    node.start()
    foreign, own = owned_key(node, 0), owned_key(node, 1)
    with shared_connection(node, 1, REPLY_SECONDS_MAX) as link, shared_connection(node, 1, REPLY_SECONDS_MAX) as other:
        assert link.call("SET", foreign, "before") == b"OK"
        victim = node.pids()["worker-0"]
        os.kill(victim, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            link.send(("SET", foreign, "during"), ("GET", foreign))
            assert other.call("SET", own, "x") == b"OK" and other.call("GET", own) == b"x"
            assert time.monotonic() - begun < GAP_SECONDS_MAX
            replies = [link.read(), link.read()]
            waited = time.monotonic() - begun
        finally:
            os.kill(victim, signal.SIGCONT)
        assert waited < DEADLINE_SECONDS + DEADLINE_SLACK_SECONDS, f"replies after {waited:.2f} s"
        for reply in replies:
            assert isinstance(reply, ErrorReply) and reply.kind in ("DEADLINE", "UNKNOWN", "TRYAGAIN"), reply
        refused = isinstance(replies[0], ErrorReply) and replies[0].kind != "UNKNOWN"
        wait_for(lambda: link.call("SET", own, "y") == b"OK", "the connection serves on", RESTART_SECONDS_MAX)
        wait_for(lambda: link.call("GET", foreign) in (b"before", b"during"), "the stopped one serves", 10.0)
        assert link.call("GET", foreign) in ((b"before",) if refused else (b"before", b"during"))


def test_hung_worker_is_replaced(node: Node, seed: int) -> None:
    node.settings["supervise.stall_ms"] = 1000
    node.start()
    recorder = load_on(node, seed)
    victim = node.pids()["worker-1"]
    os.kill(victim, signal.SIGSTOP)
    wait_for(lambda: node.pids().get("worker-1") not in (None, victim), "the hung worker was replaced")
    recorder.wait_acked(200, RESTART_SECONDS_MAX, node.worker_ports[1])
    recorder.stop()
    recorder.verify(node.port)


def test_io_uring_forbidden_still_keeps_what_it_acknowledges(node: Node, seed: int) -> None:
    node.program = ("-m", "tests.process.seccomp", sys.executable, *node.program)
    node.start()
    recorder = load_on(node, seed)
    os.kill(node.pids()["worker-0"], signal.SIGKILL)
    recorder.wait_acked(200, RESTART_SECONDS_MAX, node.worker_ports[0])
    recorder.stop()
    recorder.verify(node.port)
    assert "the log is written by a thread" in node.log()
