"""Where a process's background threads run: a pure property of the Boot, and its use on this machine."""

import os
import threading

import pytest

from nodedb_node.config import resolve
from nodedb_node.supervisor import child
from nodedb_node.supervisor.boot import Boot, Ports


def boot(pins: list[list[int]], process: int = 1) -> Boot:
    return Boot(
        role="worker",
        process=process,
        generation=1,
        workers=len(pins) - 1,
        supervisor_pid=1,
        started_us=0,
        node_id="0" * 40,
        cluster_id="0" * 32,
        node_generation=1,
        groups=16,
        data_dir="/nowhere",
        layout_dir="/nowhere/layout-1",
        ports=Ports("127.0.0.1", 1, [2] * (len(pins) - 1), "127.0.0.1", 3),
        pins=pins,
        memory_nodes=[-1] * len(pins),
        shm_fd=-1,
        bell_fds=[],
        status_fd=-1,
        config=resolve("", "", {}, {}),
    )


@pytest.mark.parametrize(
    ("pins", "expected"),
    [([[0], [1]], [0]), ([[0], [1], [2, 3]], [0, 2, 3]), ([[], []], []), ([[1], [1]], []), ([[], [1]], [])],
)
def test_the_other_processes_cores(pins: list[list[int]], expected: list[int]) -> None:
    assert boot(pins).background_cores == expected


def test_threads_begun_in_the_background_stay_there_and_the_rest_does_not() -> None:
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("one core: there is no other one")
    own, other = sorted(allowed)[:2]
    found: list[set[int]] = []
    os.sched_setaffinity(0, [own])
    try:
        with child.in_background(boot([[other], [own]])):
            thread = threading.Thread(target=lambda: found.append(os.sched_getaffinity(0)))
            thread.start()
            thread.join()
        assert found == [{other}]
        assert os.sched_getaffinity(0) == {own}
    finally:
        os.sched_setaffinity(0, allowed)


def test_cores_that_are_gone_stop_nothing() -> None:
    before = os.sched_getaffinity(0)
    with child.in_background(boot([[1 << 14], [0]])):
        assert os.sched_getaffinity(0) == before
