"""Each readiness check fails for its own reason, alone, and says what to do."""

import msgspec
import pytest

from nodedb_node.admin.facts import Disk, NodeFacts, State
from nodedb_node.admin.readiness import excluded, readiness
from tests.admin.example import HALTED, MIB, block, node, with_worker

FAILURES = [
    ("drain", node(draining=True), "clients should go elsewhere"),
    ("worker-1", with_worker(1, state=State.STARTING), "recovering its log"),
    ("worker-0", with_worker(0, state=State.DRAINING), "draining"),
    ("worker-0", with_worker(0, state=State.DOWN), "supervisor starts it again"),
    ("loop", with_worker(1, heartbeat_age_ms=5_001), "worker-1: loop has not turned for 5001 ms"),
    ("loop", with_worker(1, heartbeat_age_ms=None), "worker-1: has not turned its loop yet"),
    ("wal", with_worker(0, counters=block({"nospace": 1})), "worker-0: refuses writes for lack of disk space"),
    ("wal", with_worker(1, counters=block({"wal_backend": 0})), "worker-1: log is not open"),
    (
        "groups",
        with_worker(1, counters=msgspec.structs.replace(block(), groups={5: HALTED})),
        "worker-1: group 5 is halted: an entry of a newer version",
    ),
    ("store", with_worker(0, counters=block({"store_dirty_bytes": 257 * MIB})), "257 MiB of changed rows"),
    ("disk", node(disk=Disk(1 << 40, 127 * MIB)), "127 MiB free below /data, the floor is 128 MiB"),
    ("disk", node(disk=None), "the file system of /data does not answer"),
]


def test_a_healthy_node_passes_every_check() -> None:
    checks = readiness(node())
    names = ["drain", "worker-0", "worker-1", "loop", "wal", "groups", "store", "disk"]
    assert [check.name for check in checks] == names
    assert all(check.ok and not check.detail for check in checks)


@pytest.mark.parametrize(("name", "facts", "detail"), FAILURES)
def test_one_thing_wrong_fails_one_check(name: str, facts: NodeFacts, detail: str) -> None:
    failed = [check for check in readiness(facts) if not check.ok]
    assert [check.name for check in failed] == [name]
    assert detail in failed[0].detail


@pytest.mark.parametrize(
    "facts",
    [
        with_worker(0, heartbeat_age_ms=5_000),
        with_worker(0, counters=block({"store_dirty_bytes": 256 * MIB})),
        node(disk=Disk(1 << 40, 128 * MIB)),
    ],
)
def test_at_the_limit_is_ready(facts: NodeFacts) -> None:
    assert all(check.ok for check in readiness(facts))


def test_a_worker_that_does_not_run_is_not_blamed_twice() -> None:
    """Its last counters may say anything; the one thing to fix is that it is down."""
    facts = with_worker(0, state=State.DOWN, heartbeat_age_ms=99_999, counters=block({"nospace": 1, "wal_backend": 0}))
    assert [check.name for check in readiness(facts) if not check.ok] == ["worker-0"]


def test_excluding_leaves_the_rest() -> None:
    checks = readiness(node(draining=True, disk=None))
    assert [check.name for check in excluded(checks, frozenset({"drain"})) if not check.ok] == ["disk"]
