"""The whole node as its users start, stop and lose it: real workers, real clients."""

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.process.node import Node, alive, wait_for
from tests.seeds import run_seed


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Node(tmp_path, workers=2) as one:
        yield one


def keys_of_every_worker(n: int = 64) -> list[str]:
    """Enough different keys that each of two workers owns some."""
    return [f"key:{i}" for i in range(n)]


def test_a_restarted_node_has_what_it_acknowledged(node: Node) -> None:
    with node.start().client() as client:
        for i, key in enumerate(keys_of_every_worker()):
            assert client.set(key, i)
    assert node.stop() == 0
    with node.start().client() as client:
        assert [int(client.get(key)) for key in keys_of_every_worker()] == list(range(64))


def test_power_loss_of_every_process_loses_nothing(node: Node) -> None:
    with node.start().client() as client:
        for i, key in enumerate(keys_of_every_worker()):
            assert client.incrby(key, i) == i
    node.kill_all()
    with node.start().client() as client:
        assert [int(client.get(key)) for key in keys_of_every_worker()] == list(range(64))


@pytest.mark.parametrize("victim", ["worker-0", "worker-1"])
def test_a_killed_worker_comes_back_with_its_keys_and_the_other_serves_on(node: Node, victim: str) -> None:
    node.start()
    with node.client() as client:
        for key in keys_of_every_worker():
            client.set(key, "before")
    pid = node.pids()[victim]
    survivor = node.worker_ports[0 if victim == "worker-1" else 1]
    with node.client(survivor) as other:
        os.kill(pid, signal.SIGKILL)
        assert other.ping()
        wait_for(lambda: node.pids().get(victim, pid) != pid, f"{victim} to be restarted")
        assert other.ping()
    wait_for(lambda: all_are(node, "before"), "every key to be there again", 20.0)


def all_are(node: Node, value: str) -> bool:
    try:
        with node.client(socket_timeout=5.0) as client:
            return all(client.get(key) == value.encode() for key in keys_of_every_worker())
    except redis.RedisError:
        return False


def test_control_may_die_without_a_client_noticing(node: Node) -> None:
    with node.start().client() as client:
        pid = node.pids()["control"]
        os.kill(pid, signal.SIGKILL)
        while node.pids().get("control", pid) == pid:
            assert client.incr("count")
        assert client.incr("count") > 1


def test_children_die_with_a_killed_supervisor(node: Node) -> None:
    pids = list(node.start().pids().values())
    os.kill(node.pid, signal.SIGKILL)
    wait_for(lambda: not any(alive(pid) for pid in pids), "children to die", 1.0)


def test_sigterm_under_load_ends_in_time_and_keeps_every_answer(node: Node) -> None:
    node.start()
    counted: dict[int, int] = {}

    def load(number: int) -> None:
        try:
            with node.client(socket_timeout=5.0) as client:
                while True:
                    counted[number] = int(client.incr(f"count:{number}"))
        except redis.RedisError:
            return

    threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(counted) == 4 and min(counted.values()) > 20, "load")
    before = time.monotonic()
    assert node.stop(10.0) == 0
    assert time.monotonic() - before < 10.0
    for thread in threads:
        thread.join(10.0)
    assert not node.find_log("child killed")
    with node.start().client() as client:
        for number, last in counted.items():
            assert int(client.get(f"count:{number}")) in (last, last + 1)


def fill(node: Node, value: int) -> None:
    with node.client() as client:
        for key in keys_of_every_worker(300):
            client.set(key, value)


def all_hold(node: Node, value: int) -> bool:
    with node.client() as client:
        return all(int(client.get(key)) == value for key in keys_of_every_worker(300)) and client.dbsize() == 300


def change_workers(node: Node, workers: int) -> None:
    node.workers = workers


def test_the_number_of_workers_may_change_between_starts(node: Node) -> None:
    node.start()
    fill(node, 0)
    assert node.stop() == 0
    for round_number, workers in enumerate((1, 3, 3, 2)):
        change_workers(node, workers)
        node.start()
        assert all_hold(node, round_number)
        fill(node, round_number + 1)
        node.kill_all()
    node.start()
    assert all_hold(node, 4)
    assert [path.name for path in node.data_dir.glob("layout-*")] == ["layout-4"]


def test_a_start_in_vain_moves_no_rows(node: Node) -> None:
    node.start()
    fill(node, 0)
    assert node.stop() == 0
    change_workers(node, 3)
    assert node.start("--worker-port", "65535", wait=False).wait(10.0) == 78
    assert not node.find_log("redistributing")
    assert [path.name for path in node.data_dir.glob("layout-*")] == ["layout-1"]


def test_deaths_during_redistribution_lose_nothing(node: Node) -> None:
    """2 -> 1 -> 3 -> ... with every process killed at 20 moments: before, within and after the copy and the switch."""
    moments = random.Random(run_seed())
    node.start()
    fill(node, 7)
    assert node.stop() == 0
    change_workers(node, 3)
    node.start(wait=False)
    node.wait_log("msg=redistributing")
    began = time.monotonic()
    node.wait_log("msg=redistributed ")
    copy_s = time.monotonic() - began
    node.wait_ready()
    assert node.stop() == 0
    for attempt in range(20):
        change_workers(node, (1, 3)[attempt % 2])
        node.start(wait=False)
        wait_for(lambda: node.find_log("msg=redistributing") or node.find_log("msg=ready"), "a start")
        time.sleep(moments.uniform(0.0, 1.3 * copy_s))  # the moment is what is tested; the switch follows the copy
        os.kill(node.pid, signal.SIGKILL)
        node.wait(5.0)
    change_workers(node, 2)
    node.start()
    assert all_hold(node, 7)


def test_a_damaged_log_keeps_the_node_from_starting_and_is_named(node: Node) -> None:
    with node.start().client() as client:
        for key in keys_of_every_worker(100):
            client.set(key, "v" * 5000)
    node.kill_all()
    segment = min(node.data_dir.glob("layout-1/worker-0/wal/wal-*"))  # the next one may be there too, empty
    with segment.open("r+b") as file:
        file.seek(100_000)  # of about 250 000 that were written
        file.write(b"\x55" * 8)
    before = segment.read_bytes()
    assert node.start(wait=False).wait(20.0) == 65
    assert node.find_log(f"process=worker-0 .*{segment.name}.*offset.*nodedb-node wal verify")
    assert segment.read_bytes() == before
