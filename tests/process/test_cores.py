"""Which threads of a running node share a core with a loop."""

import os
from pathlib import Path

import pytest

from tests.process.node import node

pytestmark = pytest.mark.process


def threads(pid: int) -> dict[str, set[int]]:
    """Cores by thread name; the process's first thread is `main`."""
    tasks = Path(f"/proc/{pid}/task")
    return {
        "main" if int(task.name) == pid else (task / "comm").read_text().strip(): os.sched_getaffinity(int(task.name))
        for task in tasks.iterdir()
    }


def test_the_checkpoint_thread_of_a_pinned_worker_is_on_the_other_cores(tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core: nothing is pinned")
    with node(tmp_path, workers=1) as one:
        cores = threads(one.pids()["worker-0"])
        assert len(cores["main"]) == 1
        assert cores["nodedb-ckpt"] and not cores["nodedb-ckpt"] & cores["main"]
