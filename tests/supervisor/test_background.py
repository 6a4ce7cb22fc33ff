"""Where a process's background threads run: a pure property of the Boot, and its use on this machine."""

import os
import threading

import pytest

from nodedb_node.config import resolve
from nodedb_node.supervisor import child
from nodedb_node.supervisor.boot import Boot, Ports

WAIT_S = 10


def boot(pins: list[list[int]], spares: list[int] | None = None) -> Boot:
    return Boot(
        role="worker",
        process=1,
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
        spares=[spares or [] for _ in pins],
        memory_nodes=[-1] * len(pins),
        shm_fd=-1,
        bell_fds=[],
        status_fd=-1,
        config=resolve("", "", {}, {}),
    )


@pytest.mark.parametrize(
    ("pins", "spares", "own", "expected"),
    [
        ([[0], [1]], [0], 1, [0]),
        ([[0], [1]], [0], 0, [1]),  # stepped aside: its threads change with it
        ([[0], [1], [2]], [0, 3], 1, [0, 2, 3]),
        ([[], []], [], None, []),
        ([[1], [1]], [], 1, []),
        ([[], [1]], [], 1, []),
    ],
)
def test_the_cores_a_process_is_not_on(
    pins: list[list[int]], spares: list[int], own: int | None, expected: list[int]
) -> None:
    assert boot(pins, spares).background_cores(own) == expected


def test_a_thread_leaves_its_process_core_and_comes_back() -> None:
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("one core: there is no other one")
    own, other = sorted(allowed)[:2]
    told, end = threading.Event(), threading.Event()

    def live() -> None:
        told.set()
        end.wait(WAIT_S)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        assert told.wait(WAIT_S) and thread.native_id is not None
        child.Place(boot([[other], [own]])).put_thread(thread.native_id, own_core=False)
        assert os.sched_getaffinity(thread.native_id) == {other}
        child.Place(boot([[other], [own]])).put_thread(thread.native_id, own_core=True)
        assert os.sched_getaffinity(thread.native_id) == {own, other}
        assert os.sched_getaffinity(0) == allowed
    finally:
        end.set()
        thread.join()


@pytest.mark.parametrize("pins", [[[], []], [[1 << 14], [0]]], ids=["unpinned", "a core that is gone"])
def test_what_cannot_be_placed_stays(pins: list[list[int]]) -> None:
    before = os.sched_getaffinity(0)
    child.Place(boot(pins)).put_thread(threading.get_native_id(), own_core=False)
    assert os.sched_getaffinity(0) == before
