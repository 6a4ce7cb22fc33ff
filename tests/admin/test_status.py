"""The status document: complete, with rates over a named interval, and the limit that matters first."""

import msgspec
import pytest

from nodedb_node.admin.facts import Disk, NodeFacts, State
from nodedb_node.admin.status import Document, document
from nodedb_node.native.metrics import Histogram
from tests.admin.example import MIB, block, histogram, node, with_worker


def test_document_survives_json() -> None:
    made = document(node(), None)
    assert msgspec.json.decode(msgspec.json.encode(made), type=Document) == made
    assert (made.ready, made.reasons, made.limited_by.name) == (True, (), "none")
    assert made.uptime_seconds == 60.0
    assert made.vshards == 1024
    assert [worker.wal_backend for worker in made.workers] == ["io_uring", "io_uring"]


def test_rates_come_from_the_interval_between_two_facts() -> None:
    earlier = with_worker(0, node(now_us=90_000_000), counters=block({"commands": 1_000}))
    now = with_worker(0, counters=block({"commands": 6_000}))
    made = document(now, earlier)
    assert made.interval_seconds == 10.0
    assert [worker.commands_per_second for worker in made.workers] == [500.0, 0.0]


def test_without_earlier_facts_there_are_no_rates() -> None:
    made = document(node(), None)
    assert made.interval_seconds is None
    assert made.workers[0].commands_per_second is None


def test_a_restarted_worker_counts_from_zero() -> None:
    earlier = with_worker(0, node(now_us=90_000_000), counters=block({"commands": 1_000}))
    now = with_worker(0, counters=block({"commands": 50}))
    assert document(now, earlier).workers[0].commands_per_second == 5.0


def test_reasons_name_the_failed_checks() -> None:
    made = document(with_worker(1, state=State.DOWN, usage=None), None)
    assert not made.ready
    assert made.reasons == ("worker-1: not running: the supervisor starts it again; see its last log lines",)
    assert made.limited_by.name == "process_down"


EARLIER = node(now_us=90_000_000)
LIMITS = [
    ("disk_space", with_worker(0, counters=block({"nospace": 1, "overload_refusals": 3})), "worker-0 refuse writes"),
    ("overload", with_worker(0, counters=block({"overload_refusals": 3})), "3 commands were refused"),
    ("ring_full", with_worker(1, counters=block({"ring_tx_full": 7})), "7 messages between workers"),
    ("disk_latency", with_worker(1, counters=block(wal_sync_us=histogram(100, 90_000))), "worker-1: log syncs"),
    ("cpu", with_worker(0, counters=block(loop_stall_us=histogram(70_000))), "worker-0: the loop is up to"),
    ("disk_space_near", node(disk=Disk(1 << 40, 200 * MIB)), "200 MiB free, writes stop at 128 MiB"),
]


@pytest.mark.parametrize(("name", "facts", "detail"), LIMITS)
def test_the_limiting_factor(name: str, facts: NodeFacts, detail: str) -> None:
    found = document(facts, EARLIER).limited_by
    assert found.name == name
    assert detail in found.detail


def test_trouble_that_is_over_limits_nothing() -> None:
    """Counts and slow syncs of before the interval are history."""
    same = block({"overload_refusals": 3}, wal_sync_us=histogram(90_000))
    now, earlier = with_worker(0, counters=same), with_worker(0, EARLIER, counters=same)
    assert document(now, earlier).limited_by.name == "none"


@pytest.mark.parametrize(
    ("values", "share", "bound"), [((), 0.99, 0), ((0,), 0.5, 0), ((1, 1, 1, 1000), 0.5, 1), ((1, 1000), 0.99, 1023)]
)
def test_quantile_is_an_upper_bound(values: tuple[int, ...], share: float, bound: int) -> None:
    assert histogram(*values).quantile(share) == bound


def test_histogram_difference() -> None:
    assert histogram(1, 5, 9).minus(histogram(5)) == Histogram(2, 10, histogram(1, 9).buckets)
    assert histogram(1).minus(histogram(5, 6)) == histogram(1)
