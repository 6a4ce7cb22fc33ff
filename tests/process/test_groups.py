"""The node's Raft groups as an operator sees them, and over restarts."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.node import ROOT, Node, wait_for
from tests.process.test_admin import get


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Node]:
    with Node(tmp_path, workers=2) as started:
        yield started


def groups(one: Node) -> dict[int, dict[str, Any]]:
    return {row["group"]: row for row in json.loads(get(one, "/status")[1])["replicas"]}


def all_lead(one: Node) -> bool:
    found = groups(one)
    return len(found) == 8 and all(row["role"] == "leader" and not row["reason"] for row in found.values())


def terms(one: Node) -> dict[int, int]:
    wait_for(lambda: all_lead(one), "every group to be led")
    return {group: row["term"] for group, row in groups(one).items()}


def test_each_start_leads_every_group_in_a_new_term_and_keeps_what_it_committed(one: Node) -> None:
    one.start()
    assert terms(one) == dict.fromkeys(range(8), 1)
    with one.client() as client:
        for i in range(200):
            assert client.set(f"key:{i}", i)
    wait_for(lambda: sum(row["commit"] for row in groups(one).values()) > 8, "commits to be shown")
    assert one.stop() == 0
    one.start()
    assert terms(one) == dict.fromkeys(range(8), 2)
    one.kill_all()
    one.start()
    assert terms(one) == dict.fromkeys(range(8), 3)
    with one.client() as client:
        assert [int(client.get(f"key:{i}")) for i in range(200)] == list(range(200))


def test_a_killed_worker_leads_again_in_a_higher_term_and_the_other_keeps_its_own(one: Node) -> None:
    one.start()
    before, pid = terms(one), one.pids()["worker-1"]
    os.kill(pid, signal.SIGKILL)
    mine = [group for group, row in groups(one).items() if row["worker"] == 1]
    wait_for(lambda: all(groups(one)[group]["term"] > before[group] for group in mine), "new terms", 20.0)
    after = terms(one)
    assert {group: term for group, term in after.items() if group not in mine} == {
        group: term for group, term in before.items() if group not in mine
    }


def test_terms_and_votes_move_with_the_groups_when_the_number_of_workers_changes(one: Node) -> None:
    with one.start().client() as client:
        for i in range(200):
            client.set(f"key:{i}", i)
    old = terms(one)
    assert one.stop() == 0
    one.workers = 1
    one.start()
    new = terms(one)
    assert all(new[group] > old[group] for group in old), "a term that was voted in is never used again"
    with one.client() as client:
        assert [int(client.get(f"key:{i}")) for i in range(200)] == list(range(200))


def test_status_shows_each_group(one: Node) -> None:
    one.start()
    terms(one)
    argv = [sys.executable, "-m", "nodedb_node", "status", "--http", str(one.http_port), "--groups"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "8 groups here, 8 led, newest term 1" in done.stdout
    assert sum("leader" in line for line in done.stdout.splitlines()) == 8 + 1
