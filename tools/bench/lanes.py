"""Lanes against what else could carry them, in the same run: plain aioquic, TCP+TLS, and qh3 where it is installed.

Two processes per cell (lanepeer.py), on loopback or between two network namespaces with an Ethernet-sized veth (root).
Rounds go through the kinds in turn; medians are reported. Where others may use the machine, cells in which they took
more than a share of a core can be measured again, a bounded number of times. It judges nothing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.bench import lanecerts
from tools.bench.lanepeer import ALICE, BOB
from tools.bench.servers import repository

READY_S = 20.0
CELL_S = 90.0
OTHERS_ANY = 1000.0  # percent of a core: whatever they take
TRIES = 4  # of a cell that others disturbed
CASES = ("bulk", "requests", "messages", "heartbeat")
KINDS = ("lanes", "aioquic", "tcp", "qh3")
VETH = "veth"


def kinds() -> list[str]:
    """Those that are installed."""
    return [kind for kind in KINDS if kind != "qh3" or importlib.util.find_spec("qh3")]


@dataclass(frozen=True)
class Place:
    """Where the two processes run: words before their command lines, and the server's address."""

    name: str
    server: tuple[str, ...] = ()
    client: tuple[str, ...] = ()
    host: str = "127.0.0.1"


@contextlib.contextmanager
def namespaces() -> Iterator[Place]:
    """Two of them with a veth of 1500 B between; needs root."""
    one, other = f"nd-a{os.getpid()}", f"nd-b{os.getpid()}"
    lines = [
        f"netns add {one}",
        f"netns add {other}",
        "link add nda type veth peer name ndb",
        f"link set nda netns {one}",
        f"link set ndb netns {other}",
        f"-n {one} addr add 10.97.0.1/24 dev nda",
        f"-n {other} addr add 10.97.0.2/24 dev ndb",
        f"-n {one} link set nda up",
        f"-n {other} link set ndb up",
    ]
    try:
        for line in lines:
            subprocess.run(["ip", *line.split()], check=True, capture_output=True)
        enter = ("ip", "netns", "exec")
        yield Place(VETH, (*enter, other), (*enter, one), "10.97.0.2")
    finally:
        for name in (one, other):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@contextlib.contextmanager
def server(place: Place, kind: str, directory: Path, port: int = 0) -> Iterator[int]:
    """A running server; its port."""
    argv = [*place.server, *words("serve", kind, "-", place, port, 0, directory)]
    env = environment(place, "server")
    process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def words(role: str, kind: str, case: str, place: Place, port: int, seconds: float, directory: Path) -> list[str]:
    told = [role, kind, case, place.host, str(port), str(seconds), str(directory)]
    return [sys.executable, "-m", "tools.bench.lanepeer", *told]


def environment(place: Place, role: str) -> dict[str, str]:
    bind = {} if place.name != VETH else {"BENCH_BIND": place.host if role == "server" else "10.97.0.1"}
    return {**os.environ, "PYTHONPATH": str(repository()), **bind}


def busy_s() -> tuple[float, float]:
    """CPU seconds of the whole machine, and of this process with its children that have ended."""
    with open("/proc/stat") as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    idle, waiting = ticks[3:5]
    return (sum(ticks) - idle - waiting) / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4])


def cell(place: Place, kind: str, case: str, seconds: float, directory: Path) -> dict[str, Any]:
    """One measurement, with the percentage of a core that others took meanwhile; {} when it came to nothing in time."""
    began, (all_before, own_before) = time.monotonic(), busy_s()
    found = one_cell(place, kind, case, seconds, directory)
    all_after, own_after = busy_s()
    others = (all_after - all_before) - (own_after - own_before)
    return {**found, "others_percent": 100 * others / (time.monotonic() - began)} if found else {}


def one_cell(place: Place, kind: str, case: str, seconds: float, directory: Path) -> dict[str, Any]:
    with server(place, kind, directory) as port:
        argv = [*place.client, *words("drive", kind, case, place, port, seconds, directory)]
        try:
            env = environment(place, "client")
            done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=CELL_S)
        except subprocess.TimeoutExpired:
            return {}
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines else {}  # type: ignore[no-any-return]


def reconnects(place: Place, rounds: int, directory: Path) -> dict[str, Any]:
    """kill -9 of the server under an established lane; ms from the new one's readiness to the first answer."""
    times = []
    with contextlib.ExitStack() as stack:
        first = contextlib.ExitStack()
        port = first.enter_context(server(place, "lanes", directory))
        argv = [*place.client, *words("drive", "lanes", "reconnect", place, port, 0, directory)]
        client = subprocess.Popen(
            argv, env=environment(place, "client"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        stack.callback(client.wait)
        stack.callback(client.kill)
        assert client.stdin is not None and client.stdout is not None
        client.stdout.readline()
        for _ in range(rounds):
            first.close()
            client.stdin.write("killed\n")
            client.stdin.flush()
            time.sleep(0.5)
            first = contextlib.ExitStack()
            first.enter_context(server(place, "lanes", directory, port))
            ready = time.time()
            found = json.loads(client.stdout.readline())
            times.append(max(0.0, (found["at"] - ready) * 1e3))
            time.sleep(1.5)
        first.close()
    return {"after_ready_ms": statistics.median(times), "worst_ms": max(times)}


def medians(rows: list[dict[str, Any]]) -> dict[str, float]:
    rows = [row for row in rows if row]
    return {name: statistics.median(row[name] for row in rows) for name in (rows[0] if rows else ())}


def rounds_of(
    place: Place, case: str, rounds: int, seconds: float, others_max: float, directory: Path
) -> dict[str, dict[str, float]]:
    """Medians by kind, of the cells in which others took at most others_max percent of a core; `cells`: how many."""
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds()}
    for _ in range(rounds if others_max >= OTHERS_ANY else rounds * TRIES):
        for kind in [kind for kind in kinds() if len(rows[kind]) < rounds]:
            found = cell(place, kind, case, seconds, directory)
            if found and found["others_percent"] <= others_max:
                rows[kind].append(found)
    return {kind: {**medians(found), "cells": len(found)} for kind, found in rows.items()}


def run(
    rounds: int, seconds: float, cases: tuple[str, ...], with_veth: bool, others_max: float, tell: Any
) -> dict[str, Any]:
    """Everything; {place: {case: {kind: medians}}}."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="lanes-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        lanecerts.make(directory, [ALICE, BOB])
        places = [Place("loopback")]
        if with_veth:
            places.append(stack.enter_context(namespaces()))
        for place in places:
            for case in cases if place.name != VETH else ("bulk", "requests"):
                if case == "reconnect":
                    found.setdefault(place.name, {})[case] = {"lanes": reconnects(place, max(3, rounds), directory)}
                    continue
                of_kinds = rounds_of(place, case, rounds, seconds, others_max, directory)
                found.setdefault(place.name, {})[case] = of_kinds
                tell(f"{place.name} {case}: {found[place.name][case]}")
    return found
