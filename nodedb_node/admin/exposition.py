"""The metrics of the registry as Prometheus families, computed from one set of facts.

Invariant: every metric of the registry is present in every scrape, in the registry's order, with its labels; a
process that is gone keeps its counters' last values (they lie in shared memory) and has no usage samples. Buckets
become cumulative ones whose bound is the next bucket's start: a truncated duration below it came from a real one
below it. Reads nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from nodedb_node.admin import registry
from nodedb_node.admin.facts import NodeFacts, PeerFacts, ProcessFacts, State
from nodedb_node.admin.loops import LoopMetrics
from nodedb_node.admin.readiness import readiness
from nodedb_node.multiraft.messages import Reason
from nodedb_node.native.metrics import GroupRow, Histogram, bucket_of, bucket_start
from nodedb_node.raft.messages import Role

GROUP_COUNTS: dict[str, Callable[[GroupRow], bool]] = {
    "led": lambda row: row.role == Role.LEADER,
    "halted": lambda row: row.reason == Reason.HALTED,
    "stuck": lambda row: row.reason not in (Reason.MOVES, Reason.APPLYING),
}

Samples = Iterable[tuple[list[str], float]]


class NodeCollector(Collector):
    """Hands prometheus_client the families of the facts at the moment of the scrape."""

    def __init__(self, facts: Callable[[], NodeFacts], loops: Callable[[], Iterable[LoopMetrics]]) -> None:
        self._facts = facts
        self._loops = loops

    def describe(self) -> Iterable[Metric]:
        """No families: names are unique by the registry's own test, and registering must not read the machine."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        return families(self._facts(), tuple(self._loops()))


def families(facts: NodeFacts, loops: tuple[LoopMetrics, ...]) -> Iterator[Metric]:
    """Every family of the registry."""
    yield from _node(facts)
    yield from _peers(facts.peers)
    for metric in registry.PROCESS_METRICS:
        yield _simple(metric, _process_samples(metric, facts.processes))
    for metric in registry.LANE_METRICS:
        yield _simple(metric, _lane_samples(metric, facts.processes))
    for metric in registry.WORKER_METRICS:
        if metric.kind is registry.Kind.HISTOGRAM:
            yield _histogram(metric, facts.workers)
        else:
            yield _simple(metric, _worker_samples(metric, facts.workers))
    yield from _groups(facts)
    yield _simple(registry.LOOP_RUNS, (([loop.name], loop.runs) for loop in loops))
    yield _simple(registry.LOOP_SECONDS, (([loop.name], loop.seconds) for loop in loops))
    yield _simple(
        registry.LOOP_ERRORS,
        (([loop.name, kind], count) for loop in loops for kind, count in sorted(loop.errors.items())),
    )


def _node(facts: NodeFacts) -> Iterator[Metric]:
    checks = readiness(facts)
    yield _simple(registry.INFO, [([facts.version, facts.node_id, facts.cluster_id], 1)])
    yield _simple(registry.READY, [([], all(check.ok for check in checks))])
    yield _simple(registry.READY_CHECK, (([check.name], check.ok) for check in checks))
    yield _simple(registry.START_TIME, [([], facts.wall_ms / 1e3 - facts.uptime_seconds)])
    disk: list[tuple[registry.Metric, int]] = [(registry.DISK_FLOOR, facts.limits.floor_bytes)]
    if facts.disk is not None:
        disk = [(registry.DISK_SIZE, facts.disk.size_bytes), (registry.DISK_FREE, facts.disk.free_bytes), *disk]
    for metric, value in (*disk, (registry.ADMIN_REFUSALS, facts.admin_refusals)):
        yield _simple(metric, [([], value)])


def _peers(peers: PeerFacts) -> Iterator[Metric]:
    values = {
        registry.PEERS_INSECURE: int(peers.insecure),
        registry.PEERS_INSECURE_WARNINGS: peers.insecure_warnings,
        registry.PEER_CERTIFICATE: peers.certificate_not_after_s,
        registry.PEER_AUTHORITY: peers.authority_not_after_s,
        registry.PEER_LIST: peers.list_next_update_s,
        registry.PEER_AUTHORITIES: peers.authorities,
        registry.PEER_TRUST_GENERATION: peers.trust_generation,
    }
    return (_simple(metric, [([], value)]) for metric, value in values.items())


def _groups(facts: NodeFacts) -> Iterator[Metric]:
    """Raft groups: sums per worker, and each by itself while they are few."""
    for metric in registry.GROUP_SUMS:
        counted = GROUP_COUNTS[metric.source]
        yield _simple(
            metric,
            (
                ([str(worker.worker)], sum(counted(row) for row in worker.counters.groups.values()))
                for worker in facts.workers
            ),
        )
    shown = facts.workers if facts.groups <= registry.GROUPS_SHOWN_MAX else ()
    for metric in registry.GROUP_METRICS:
        yield _simple(
            metric,
            (
                ([str(worker.worker), str(group)], getattr(row, metric.source))
                for worker in shown
                for group, row in worker.counters.groups.items()
            ),
        )


def _simple(metric: registry.Metric, samples: Samples) -> Metric:
    family: CounterMetricFamily | GaugeMetricFamily
    if metric.kind is registry.Kind.COUNTER:
        family = CounterMetricFamily(metric.family, metric.help, labels=metric.labels)
    else:
        family = GaugeMetricFamily(metric.family, metric.help, labels=metric.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _worker_samples(metric: registry.Metric, workers: Iterable[ProcessFacts]) -> Samples:
    return (([str(worker.worker)], worker.counters.values[metric.source] * metric.scale) for worker in workers)


def _lane_samples(metric: registry.Metric, processes: Iterable[ProcessFacts]) -> Samples:
    return (([process.name], process.counters.values[metric.source]) for process in processes)


def _process_samples(metric: registry.Metric, processes: Iterable[ProcessFacts]) -> Iterator[tuple[list[str], float]]:
    for process in processes:
        value = _process_value(metric.source, process)
        if value is not None:
            yield [process.name], value


def _process_value(source: str, process: ProcessFacts) -> float | None:
    match source:
        case "up":
            return process.state is State.READY
        case "generation":
            return process.generation
        case "restarts":
            return process.restarts
        case "heartbeat_age":
            return None if process.heartbeat_age_ms is None else process.heartbeat_age_ms / 1e3
        case "start_time":
            started_ms = process.counters.values["started_ms"]
            return started_ms / 1e3 if started_ms else None
        case _:
            value: float | None = getattr(process.usage, source) if process.usage is not None else None
            return value


def _histogram(metric: registry.Metric, workers: Iterable[ProcessFacts]) -> Metric:
    family = HistogramMetricFamily(metric.family, metric.help, labels=metric.labels)
    for worker in workers:
        found = worker.counters.histograms[metric.source]
        family.add_metric(
            [str(worker.worker)],
            cumulative(found, metric.exponents, metric.scale, metric.steps),
            found.sum * metric.scale,
        )
    return family


def cumulative(found: Histogram, exponents: range, scale: float, steps: int = 1) -> list[tuple[str, float]]:
    """Prometheus buckets at 2^e for each exponent and, with 4 steps, at the quarters between them, then +Inf.

    What lies below the first bound is counted in it.
    """
    first, last = bucket_of(1 << exponents[0]), bucket_of(1 << exponents[-1])
    below = list(accumulate(found.buckets, initial=0))  # [i] = what lies in the buckets before i
    if steps == 1:
        wanted = [bucket_of(1 << exponent) for exponent in exponents]
    else:
        wanted = list(range(first, last + 1))
    bounds = [(format(bucket_start(bucket) * scale, ".9g"), float(below[bucket])) for bucket in wanted]
    return [*bounds, ("+Inf", float(below[-1]))]
