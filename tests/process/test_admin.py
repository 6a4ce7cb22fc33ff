"""Health, metrics and status of a real node, through its life: serving, a dying worker, a drain."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nodedb_node.admin import registry
from nodedb_node.errors import Exit
from tests.process.node import ROOT, Node, node, wait_for

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("admin"), workers=2) as one:
        yield one


def get(one: Node, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{one.http_port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def values(one: Node) -> dict[tuple[str, str], float]:
    """Samples by name and the one label's value."""
    families = text_string_to_metric_families(get(one, "/metrics")[1])
    return {(s.name, next(iter(s.labels.values()), "")): s.value for family in families for s in family.samples}


def total(found: dict[tuple[str, str], float], name: str) -> float:
    return sum(value for (sample, _), value in found.items() if sample == name)


def test_ready_with_every_check(running: Node) -> None:
    assert get(running, "/livez") == (200, "ok\n")
    code, text = get(running, "/readyz?verbose")
    assert code == 200, text
    assert text.splitlines()[-1] == "ready"


def test_every_metric_of_the_registry_is_served(running: Node) -> None:
    families = text_string_to_metric_families(get(running, "/metrics")[1])
    served = {family.name for family in families}
    assert {metric.family for metric in registry.ALL} <= served


def test_what_clients_do_is_counted(running: Node) -> None:
    before = values(running)
    client = running.client()
    for number in range(50):
        client.set(f"key:{number}", "v" * 100)
    for number in range(30):
        client.get(f"key:{number}")

    def gained(name: str) -> float:
        return total(values(running), name) - total(before, name)

    wait_for(lambda: gained("nodedb_write_commands_total") == 50, "50 writes to be counted")
    wait_for(lambda: gained("nodedb_read_commands_total") == 30, "30 reads to be counted")
    wait_for(lambda: gained("nodedb_wal_sync_seconds_count") > 0, "syncs to be counted")
    wait_for(lambda: gained("nodedb_store_rows") == 50, "50 rows to be counted")
    assert gained("nodedb_received_bytes_total") > 50 * 100


def test_status_verb(running: Node) -> None:
    argv = [sys.executable, "-m", "nodedb_node", "status", "--http", f"127.0.0.1:{running.http_port}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    shown = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=30, check=True).stdout
    assert "ready, up" in shown.splitlines()[0]
    assert {"control", "worker-0", "worker-1"} <= {line.split()[0] for line in shown.splitlines() if line}
    raw = subprocess.run([*argv, "--json"], capture_output=True, env=environment, timeout=30, check=True).stdout
    document = json.loads(raw)
    assert document["ready"] and document["schema"] == 1
    assert {process["name"]: process["pid"] for process in document["processes"]} == running.pids()
    assert [worker["port"] for worker in document["workers"]] == running.worker_ports


def test_status_verb_without_a_node(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "nodedb_node", "status", "--http", "127.0.0.1:1"]
    ended = subprocess.run(argv, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=30)
    assert ended.returncode == Exit.UNAVAILABLE.value
    assert len(ended.stderr.splitlines()) == 1 and "no node answers" in ended.stderr


def test_a_killed_worker_is_seen_and_comes_back(running: Node) -> None:
    pid = running.pids()["worker-1"]
    os.kill(pid, signal.SIGSTOP)  # so that it is seen to be unready however quickly a successor would start
    wait_for(lambda: "[-] loop failed: worker-1" in get(running, "/readyz")[1], "the stopped loop to be seen", 20)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: get(running, "/readyz")[0] == 200, "the node to be ready again", 20)
    assert values(running)[("nodedb_process_restarts_total", "worker-1")] == 1


def test_a_killed_control_comes_back_and_counts_go_on(running: Node) -> None:
    client = running.client()
    client.set("before", "1")
    commands = total(values(running), "nodedb_commands_total")
    os.kill(running.pids()["control"], signal.SIGKILL)
    assert client.get("before") == b"1"

    def again() -> bool:
        try:
            return get(running, "/readyz")[0] == 200
        except OSError:
            return False

    wait_for(again, "control to serve again", 20)
    assert total(values(running), "nodedb_commands_total") >= commands
    assert values(running)[("nodedb_process_restarts_total", "control")] == 1


def test_a_drain_ends_control_last_and_clean(tmp_path: Path) -> None:
    with node(tmp_path) as one:
        assert one.stop() == 0
        assert "killed" not in one.log()
