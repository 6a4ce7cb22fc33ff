"""A real control process: serves, drains, dies and starts again beside workers that never notice."""

import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from nodedb_node.admin.status import Document
from nodedb_node.errors import Exit
from nodedb_node.metadata.catalog import Catalog, Identity
from tests.control.stage import WAIT_SECONDS, Stage

pytestmark = pytest.mark.process


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as made:
        yield made


def test_serves_and_reports_what_workers_count(stage: Stage) -> None:
    stage.block(1).commands = 41
    stage.start()
    stage.wait_ready()
    assert stage.get("/livez") == (200, "ok\n")
    assert stage.get("/readyz") == (200, "ok\n")
    assert 'nodedb_commands_total{core="1"} 41.0' in stage.get("/metrics")[1]
    found = msgspec.json.decode(stage.get("/status")[1], type=Document)
    assert [process.pid for process in found.processes[1:]] == [worker.pid for worker in stage.workers]
    assert [worker.wal_backend for worker in found.workers] == ["thread", "thread"]
    assert [worker.port for worker in found.workers] == stage.boot.ports.workers
    assert found.processes[0].pss_bytes


def test_a_worker_that_dies_is_seen_and_seen_again(stage: Stage) -> None:
    stage.start()
    stage.wait_ready()
    stage.shared.died(2)
    assert "[-] worker-1 failed: not running" in stage.until_ready_answers(503)
    stage.worker_ready(1)
    stage.until_ready_answers(200)
    found = msgspec.json.decode(stage.get("/status")[1], type=Document)
    assert [process.restarts for process in found.processes] == [0, 0, 1]


def test_drain_is_unready_first_and_ends_after_the_workers(stage: Stage) -> None:
    control = stage.start()
    stage.wait_ready()
    control.send_signal(signal.SIGTERM)
    assert "the node is draining" in stage.until_ready_answers(503)
    assert stage.get("/livez")[0] == 200
    for worker in stage.workers:
        assert control.poll() is None
        worker.kill()
        worker.wait()
    assert control.wait(WAIT_SECONDS) == 0


def test_killed_and_started_again(stage: Stage) -> None:
    first = stage.start()
    stage.wait_ready()
    first.kill()
    first.wait()
    stage.start()
    stage.wait_ready()
    found = msgspec.json.decode(stage.get("/status")[1], type=Document)
    assert (found.ready, found.processes[0].generation) == (True, 2)
    assert all(worker.poll() is None for worker in stage.workers)


def test_a_catalog_of_another_directory_is_refused_in_one_line(stage: Stage) -> None:
    with Catalog.open(Path(stage.boot.data_dir) / "catalog") as catalog:
        catalog.claim(Identity(cluster_id="b" * 32, node_id="f" * 40, groups=8), 1)
    control = stage.start()
    _, log = control.communicate(timeout=WAIT_SECONDS)
    assert control.returncode == Exit.DATA.value
    assert len(log.splitlines()) == 1
    assert b"parts of two directories were mixed" in log
