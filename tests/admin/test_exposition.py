"""The scrape: every metric of the registry with a producer, parsable by Prometheus's own parser, histograms exact."""

import re
from collections.abc import Iterable

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import CollectorRegistry

from nodedb_node.admin import registry
from nodedb_node.admin.exposition import NodeCollector, cumulative, families
from nodedb_node.admin.facts import NodeFacts, State
from nodedb_node.admin.loops import LoopRegistry
from nodedb_node.native.metrics import HISTOGRAMS, WORDS
from tests.admin.example import block, histogram, node, with_worker

BASE_UNITS = {"1", "seconds", "bytes"}


def scrape(facts: NodeFacts, loops: LoopRegistry | None = None) -> CollectorRegistry:
    made = CollectorRegistry(auto_describe=False)
    made.register(NodeCollector(lambda: facts, (loops or LoopRegistry()).all))
    return made


def samples(found: Iterable[Metric]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in found for s in family.samples}


def test_every_word_of_the_counter_block_is_exposed_once() -> None:
    sources = [metric.source for metric in registry.WORKER_METRICS]
    assert len(sources) == len(set(sources))
    lanes = {metric.source for metric in registry.LANE_METRICS}
    assert set(sources) | registry.PROCESS_WORDS | lanes == WORDS.keys() | HISTOGRAMS.keys()
    histograms = {metric.source for metric in registry.WORKER_METRICS if metric.kind is registry.Kind.HISTOGRAM}
    assert histograms == HISTOGRAMS.keys()


def test_every_metric_is_produced_in_the_order_of_the_registry() -> None:
    assert [family.name for family in families(node(), ())] == [metric.family for metric in registry.ALL]


def test_kinds_and_labels_are_those_of_the_registry() -> None:
    kinds = {CounterMetricFamily: "counter", GaugeMetricFamily: "gauge", HistogramMetricFamily: "histogram"}
    loops = LoopRegistry()
    loops.add("sample").failed(ValueError("x"))
    for family, metric in zip(families(node(), loops.all()), registry.ALL, strict=True):
        assert kinds[type(family)] == metric.kind.value
        assert family.samples, metric.name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels), metric.name


def test_names_units_and_help_keep_the_conventions() -> None:
    names = [metric.exposed for metric in registry.ALL]
    assert len(names) == len(set(names))
    for metric in registry.ALL:
        assert re.fullmatch(r"nodedb_[a-z]+(_[a-z]+)*", metric.exposed)
        assert not metric.help[0].islower() and metric.help.endswith("."), metric.name
        assert metric.unit, metric.name
        if metric.unit in BASE_UNITS - {"1"}:
            assert metric.unit in metric.name, metric.name
        assert not re.search(r"_(ms|us|kb|mb|milliseconds)$", metric.name)


def test_both_formats_parse_and_agree() -> None:
    facts = with_worker(0, counters=block({"commands": 12}, command_us=histogram(3, 40, 90_000_000)))
    made = scrape(facts)
    plain = samples(parse_text(generate_latest(made).decode()))
    opened = samples(parse_openmetrics(generate_openmetrics(made).decode()))
    assert plain[("nodedb_commands_total", (("core", "0"),))] == 12
    assert plain == opened


def test_histogram_counts_what_the_buckets_hold() -> None:
    assert cumulative(histogram(0, 1, 3, 4, 7, 8, 1 << 40), range(2, 4), 1.0) == [("4", 3), ("8", 5), ("+Inf", 7)]


def test_histogram_bounds_are_in_base_units_and_cover_the_truncated_duration() -> None:
    """A duration of 15.9 us is counted as 15: below the bound of 16 us."""
    assert cumulative(histogram(15, 16), range(4, 6), 1e-6) == [("1.6e-05", 1), ("3.2e-05", 2), ("+Inf", 2)]


def test_sum_is_in_base_units() -> None:
    found = samples(families(with_worker(0, counters=block(checkpoint_ms=histogram(1_500))), ()))
    assert found[("nodedb_checkpoint_seconds_sum", (("core", "0"),))] == 1.5


def test_a_dead_process_keeps_its_counters_and_loses_its_usage() -> None:
    facts = with_worker(1, state=State.DOWN, usage=None, generation=4, counters=block({"commands": 9}))
    found = samples(families(facts, ()))
    assert found[("nodedb_commands_total", (("core", "1"),))] == 9
    assert found[("nodedb_process_up", (("process", "worker-1"),))] == 0
    assert found[("nodedb_process_restarts_total", (("process", "worker-1"),))] == 3
    assert ("nodedb_process_resident_bytes", (("process", "worker-1"),)) not in found
    assert ("nodedb_process_resident_bytes", (("process", "worker-0"),)) in found


def test_readiness_and_start_time() -> None:
    found = samples(families(node(draining=True), ()))
    assert found[("nodedb_ready", ())] == 0
    assert found[("nodedb_ready_check", (("check", "drain"),))] == 0
    assert found[("nodedb_ready_check", (("check", "wal"),))] == 1
    assert found[("nodedb_start_time_seconds", ())] == 1_700_000_000 - 60


def test_a_disk_that_does_not_answer_leaves_its_sizes_out() -> None:
    found = samples(families(node(disk=None), ()))
    assert ("nodedb_disk_free_bytes", ()) not in found
    assert ("nodedb_disk_floor_bytes", ()) in found


def test_four_steps_expose_the_quarters_between_powers_of_two() -> None:
    found = cumulative(histogram(7, 8, 9, 10, 13, 16, 99), range(3, 5), 1.0, steps=4)
    assert found == [("8", 1), ("10", 3), ("12", 4), ("14", 5), ("16", 5), ("+Inf", 7)]


def test_groups_are_summed_always_and_shown_one_by_one_while_they_are_few() -> None:
    found = samples(families(node(), ()))
    core = (("core", "1"),)
    assert (found[("nodedb_groups_led", core)], found[("nodedb_groups_stuck", core)]) == (1, 1)
    assert found[("nodedb_group_commit_index", (*core, ("group", "0")))] == 90
    many = samples(families(msgspec.structs.replace(node(), groups=registry.GROUPS_SHOWN_MAX + 1), ()))
    assert many[("nodedb_groups_led", core)] == 1
    assert not [name for name, _ in many if name.startswith("nodedb_group_")]
