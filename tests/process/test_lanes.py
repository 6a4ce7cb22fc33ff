"""Lanes of a running node: every process opens one, a killed worker is reached again, status and metrics show them."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.node import ROOT, Node, wait_for

pytestmark = pytest.mark.process


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Node(tmp_path, workers=2) as made:
        made.start()
        yield made


def lanes(node: Node) -> list[str]:
    """HOST:PORT of control and of the workers, once they are open."""
    wait_for(lambda: len(re.findall('msg="lane open"', node.log())) >= 3, "three lanes to open", 20)
    line = re.findall(r"process=supervisor msg=ready .*", node.log())[-1]
    fields = dict(pair.split("=", 1) for pair in line.split() if "=" in pair)
    return [fields["peers"], *(f"127.0.0.1:{port}" for port in fields["lanes"].split(","))]


def ping(node: Node, address: str, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "nodedb_node", "peer", "ping", address, "--data-dir", str(node.data_dir)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([*argv, "--count", "5", "--mib", "1", *words], capture_output=True, text=True, env=env)


def test_every_process_answers_on_its_lane(node: Node) -> None:
    for name, address in zip(("control", "worker-0", "worker-1"), lanes(node), strict=True):
        done = ping(node, address)
        assert done.returncode == 0, done.stderr
        assert f", {name}, start " in done.stdout and "protocol version 1" in done.stdout
        assert re.search(r"datagrams up to 8900 B", done.stdout) and re.search(r"bulk \d+ MB/s", done.stdout)


def test_a_worker_that_was_killed_is_reached_again(node: Node) -> None:
    address = lanes(node)[1]
    before = ping(node, address)
    os.kill(node.pids()["worker-0"], signal.SIGKILL)
    wait_for(lambda: len(re.findall('process=worker-0 msg="lane open"', node.log())) == 2, "its lane to open again", 20)
    after = ping(node, address)
    assert after.returncode == 0, after.stderr
    starts = [int(re.findall(r"start (\d+)", done.stdout)[0]) for done in (before, after)]
    assert starts[1] == starts[0] + 1, "the next generation of the same process"


def test_status_and_metrics_show_lanes(node: Node) -> None:
    for address in lanes(node):
        assert ping(node, address).returncode == 0
    url = f"http://127.0.0.1:{node.http_port}"

    def begun() -> bool:
        text = urllib.request.urlopen(f"{url}/metrics").read().decode()
        counts = re.findall(r'nodedb_lane_sessions_begun_total\{process="[\w-]+"\} (\S+)', text)
        return len(counts) == 3 and all(float(count) >= 2 for count in counts)

    wait_for(begun, "sessions to be counted", 10)
    argv = [sys.executable, "-m", "nodedb_node", "status", "--http", f"127.0.0.1:{node.http_port}"]
    shown = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}).stdout
    rows = re.findall(r"^(control|worker-\d) +127\.0\.0\.1:\d+ +yes ", shown, re.M)
    assert rows == ["control", "worker-0", "worker-1"]


def test_a_peer_that_does_not_fit_is_told_why(node: Node) -> None:
    address = lanes(node)[0]
    done = ping(node, address, "--peers", "insecure")
    assert done.returncode == 69 and "it refused this node, identity: other-authority" in done.stderr
