"""An open-loop load: requests leave on a schedule whatever the server does, and latency counts from the scheduled
moment.

Invariant: a stalled server cannot slow the schedule down, so a stall shows in full (no coordinated omission). Runs in
its own process, because its timing must not share an interpreter with whoever watches the server.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy
from numpy.typing import NDArray

from tools.bench import resp

TICK_S = 0.0005
DRAIN_SECONDS_MAX = 10.0
CLOCK_MONOTONIC = 1
LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Paced:
    """One finished run; arrays have one element per answered request, in order of arrival of the answers."""

    due_s: NDArray[numpy.float64]
    """CLOCK_MONOTONIC moment at which the request was scheduled."""
    latency_s: NDArray[numpy.float64]
    own_lateness_p99_s: float
    """How late this generator itself was at its ticks."""
    unanswered: int
    errors: int

    def percentile_ms(self, percent: float, begun: float = 0.0, ended: float = float("inf")) -> float:
        chosen = self.latency_s[(self.due_s >= begun) & (self.due_s < ended)]
        return float(numpy.percentile(chosen, percent)) * 1e3 if len(chosen) else float("nan")

    def within(self, windows: list[tuple[float, float]]) -> Paced:
        mask = numpy.zeros(len(self.due_s), dtype=bool)
        for begun, ended in windows:
            mask |= (self.due_s >= begun) & (self.due_s < ended)
        return Paced(self.due_s[mask], self.latency_s[mask], self.own_lateness_p99_s, self.unanswered, self.errors)


def run(port: int, rate: float, seconds: float, meanwhile: Callable[[float], None], connections: int = 50) -> Paced:
    """SETs of 64 B on random keys at rate per second; meanwhile(begun) is called in this process and may watch."""
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    child = multiprocessing.get_context("fork").Process(
        target=generate, args=(theirs, port, rate, seconds, connections)
    )
    child.start()
    theirs.close()
    try:
        meanwhile(ours.recv())
        result: Paced = ours.recv()
    finally:
        child.join(DRAIN_SECONDS_MAX)
        child.kill()
    return result


def generate(pipe: Connection, port: int, rate: float, seconds: float, connections: int) -> None:
    load = PacedLoad(port, rate, seconds, connections)
    pipe.send(load.begun)
    pipe.send(load.run())


class PacedLoad:
    """One thread, one epoll set: a timer tick sends what is due, readable sockets yield answers."""

    def __init__(self, port: int, rate: float, seconds: float, connections: int) -> None:
        self.links = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
        self.waiting: list[deque[float]] = [deque() for _ in self.links]
        self.by_descriptor = {link.fileno(): number for number, link in enumerate(self.links)}
        self.epoll = select.epoll()
        for link in self.links:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.epoll.register(link.fileno(), select.EPOLLIN)
        self.timer = start_timer(TICK_S)
        self.epoll.register(self.timer, select.EPOLLIN)
        self.rate, self.begun = rate, time.monotonic()
        self.ended = self.begun + seconds
        self.sent = self.answered = self.errors = 0
        self.due: list[float] = []
        self.latency: list[float] = []
        self.lateness: list[float] = []
        self.last_tick = self.begun
        self.rng = random.Random(1)

    def run(self) -> Paced:
        deadline = self.ended + DRAIN_SECONDS_MAX
        while time.monotonic() < deadline and (time.monotonic() < self.ended or self.answered < self.sent):
            for descriptor, _ in self.epoll.poll(1.0):
                if descriptor == self.timer:
                    self.tick()
                else:
                    self.receive(self.by_descriptor[descriptor])
        lateness = float(numpy.percentile(self.lateness, 99)) if self.lateness else 0.0
        return Paced(numpy.array(self.due), numpy.array(self.latency), lateness, self.sent - self.answered, self.errors)

    def tick(self) -> None:
        """Send everything that was due up to now, each request with its own scheduled moment."""
        os.read(self.timer, 8)
        now = time.monotonic()
        self.lateness.append(max(0.0, now - self.last_tick - TICK_S))
        self.last_tick = now
        until = int((min(now, self.ended) - self.begun) * self.rate)
        value = b"x" * 64
        for number in range(self.sent, until):
            chosen = number % len(self.links)
            self.waiting[chosen].append(self.begun + number / self.rate)
            self.links[chosen].sendall(resp.command(b"SET", resp.key(self.rng.randrange(resp.KEYS_DEFAULT)), value))
        self.sent = max(self.sent, until)

    def receive(self, number: int) -> None:
        data = self.links[number].recv(1 << 16)
        now = time.monotonic()
        if not data:
            raise ConnectionError("the server closed a connection of the paced load")
        self.errors += data.count(b"-")
        for _ in range(data.count(b"\n")):
            due = self.waiting[number].popleft()
            self.due.append(due)
            self.latency.append(now - due)
            self.answered += 1


def start_timer(period_s: float) -> int:
    """A periodic timerfd: epoll's own timeout only knows whole milliseconds."""

    class Times(ctypes.Structure):
        _fields_ = [(name, ctypes.c_long) for name in ("interval_s", "interval_ns", "first_s", "first_ns")]

    descriptor = LIBC.timerfd_create(CLOCK_MONOTONIC, 0)
    nanoseconds = int(period_s * 1e9)
    if descriptor < 0 or LIBC.timerfd_settime(descriptor, 0, ctypes.byref(Times(0, nanoseconds, 0, nanoseconds)), None):
        raise OSError(ctypes.get_errno(), "timerfd")
    return int(descriptor)
