"""Control lets workers start first, for a bounded time, and only where it would be in their way."""

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from nodedb_node.control.memory import Memory
from nodedb_node.control.patience import let_workers_start
from tests.control.stage import WAIT_SECONDS, Stage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as made:
        yield made


def memory(stage: Stage) -> Memory:
    return Memory(stage.boot.shm_fd, stage.boot.bell_fds)


def begin_again(stage: Stage, number: int) -> None:
    """The worker died and its next life is starting."""
    stage.shared.died(number + 1)
    stage.shared.started(number + 1, stage.workers[number].pid)


def test_no_wait_when_all_serve(stage: Stage) -> None:
    assert let_workers_start(stage.boot, memory(stage), lambda: None, 0.0)


def test_waits_until_the_last_one_serves(stage: Stage) -> None:
    begin_again(stage, 0)
    begin_again(stage, 1)
    seen = []
    waiting = threading.Thread(
        target=lambda: seen.append(let_workers_start(stage.boot, memory(stage), lambda: None, float(WAIT_SECONDS)))
    )
    waiting.start()
    stage.worker_ready(0)
    assert not seen
    stage.worker_ready(1)
    waiting.join(WAIT_SECONDS)
    assert seen == [True]


def test_a_worker_that_takes_long_is_not_waited_for(stage: Stage) -> None:
    begin_again(stage, 1)
    assert not let_workers_start(stage.boot, memory(stage), lambda: None, 0.05)


def test_no_wait_on_a_core_of_its_own(stage: Stage) -> None:
    begin_again(stage, 1)
    pinned = msgspec.structs.replace(stage.boot, pins=[[0], [1], [2]])
    assert not let_workers_start(pinned, memory(stage), lambda: None, float(WAIT_SECONDS))


def test_a_worker_that_is_down_is_the_supervisors_to_start(stage: Stage) -> None:
    stage.shared.died(1)
    assert let_workers_start(stage.boot, memory(stage), lambda: None, 0.0)
