"""docs/alerts.yml: Prometheus alert rules over the metric registry.

Invariant: an expression names metrics only through the registry, so a rule over a metric that was renamed or removed is
an error here; each alert has a paragraph of its own name in docs/operations.md. Thresholds are starting points.
"""

from typing import NamedTuple

from nodedb_node.admin import registry
from nodedb_node.admin.registry import ALL

METRICS = {metric.name: metric.exposed for metric in ALL}


class Alert(NamedTuple):
    """One rule; `{name}` in `expression` stands for the exposed name of that metric."""

    name: str
    expression: str
    minutes: int
    severity: str
    summary: str

    @property
    def expr(self) -> str:
        return self.expression.format_map(METRICS)


def _p99(metric: str) -> str:
    return f"histogram_quantile(0.99, sum by (instance, core, le) (rate({{{metric}}}_bucket[5m])))"


ALERTS = (
    Alert("NodedbNotAnswering", 'up{{job="nodedb"}} == 0', 2, "critical", "the node or its control process is down"),
    Alert("NodedbNotReady", "{ready} == 0", 2, "critical", "/readyz says no: see /readyz?verbose"),
    Alert("NodedbWorkerDown", "{process_up} == 0", 1, "critical", "{{ $labels.process }} does not serve"),
    Alert(
        "NodedbGroupsStuck", "{groups_stuck} > 0", 1, "critical",
        "Raft groups of worker {{ $labels.core }} do not move: no leader, halted, or a disk that does not answer",
    ),
    Alert(
        "NodedbProcessRestarts", "increase({process_restarts}[30m]) > 2", 0, "warning",
        "{{ $labels.process }} was started again more than twice in half an hour",
    ),
    Alert(
        "NodedbWritesRefused", "{nospace} == 1", 0, "critical", "worker {{ $labels.core }} refuses writes: disk full"
    ),
    Alert(
        "NodedbDiskNearlyFull", "{disk_free_bytes} < 4 * {disk_floor_bytes}", 10, "warning",
        "free disk space nears the floor below which writes are refused",
    ),
    Alert(
        "NodedbDiskFillsUp", "predict_linear({disk_free_bytes}[6h], 86400) < {disk_floor_bytes}", 60, "warning",
        "at this rate writes are refused within a day",
    ),
    Alert(
        "NodedbClientCertificateEnds",
        "{tls_certificate_end_seconds} > 0 and {tls_certificate_end_seconds} - time() < 14 * 86400",
        60, "warning", "the certificate that clients of worker {{ $labels.core }} are shown ends within two weeks",
    ),
    Alert(
        "NodedbClientRevocationsEnd",
        "{tls_revocation_list_next_update_seconds} > 0 and {tls_revocation_list_next_update_seconds} - time() < 86400",
        60, "critical", "worker {{ $labels.core }} refuses clients' certificates from when tls_crl ends, in a day",
    ),
    Alert(
        "NodedbPasswordsGuessed", "increase({auth_refusals}[10m]) > 0", 0, "warning",
        "an address failed to authenticate so often that worker {{ $labels.core }} refuses it",
    ),
    Alert(
        "NodedbPeersInsecure", "{peers_insecure} == 1", 5, "warning",
        "nodes are not checked: anybody can be a peer, and read what it is told",
    ),
    Alert(
        "NodedbCertificateEnds",
        "{peer_certificate_not_after_seconds} > 0 and {peer_certificate_not_after_seconds} - time() < 5 * 86400",
        60, "critical", "the node's certificate ends within five days: it should have been renewed long ago",
    ),
    Alert(
        "NodedbAuthorityEnds",
        "{peer_authority_not_after_seconds} > 0 and {peer_authority_not_after_seconds} - time() < 90 * 86400",
        60, "warning", "the cluster's certificate authority ends within 90 days",
    ),
    Alert(
        "NodedbRevocationsStale",
        "{peer_revocation_list_next_update_seconds} > 0 and {peer_revocation_list_next_update_seconds} < time()",
        5, "warning", "a revocation list was not replaced in time: newer revocations are not known to this node",
    ),
    Alert(
        "NodedbSlowSyncs", _p99("wal_sync_seconds") + " > 0.05", 10, "warning",
        "log syncs of worker {{ $labels.core }} take above 50 ms (p99): the disk is slow or shared",
    ),
    Alert(
        "NodedbLoopStalls", _p99("loop_stall_seconds") + " > 0.05", 10, "warning",
        "the loop of worker {{ $labels.core }} is above 50 ms late (p99): its core is shared or too small",
    ),
    Alert(
        "NodedbHeartbeatOld", "{process_heartbeat_age_seconds} > 5", 0, "critical",
        "the loop of {{ $labels.process }} does not turn",
    ),
    Alert(
        "NodedbOverload", "rate({overload_refusals}[5m]) > 0", 5, "warning",
        "worker {{ $labels.core }} refuses commands because a queue is full",
    ),
    Alert(
        "NodedbDeadlines", "rate({deadline_refusals}[5m]) > 0", 5, "warning",
        "commands of worker {{ $labels.core }} miss their deadline",
    ),
    Alert(
        "NodedbSlowReaders", "increase({output_limit_closed}[10m]) > 0", 0, "info",
        "clients of worker {{ $labels.core }} were cut because they read too slowly",
    ),
    Alert(
        "NodedbCheckpointBehind",
        "{store_dirty_bytes} > 256 * 1024 * 1024 and increase({store_checkpoints}[15m]) == 0", 15, "warning",
        "changed rows of worker {{ $labels.core }} pile up and no checkpoint finishes: a restart will take long",
    ),
    Alert(
        "NodedbDescriptorsHigh", "{process_open_files} > 15000", 10, "warning",
        "{{ $labels.process }} has many open descriptors: compare with its LimitNOFILE",
    ),
    Alert(
        "NodedbControlErrors", "increase({loop_errors}[15m]) > 0", 0, "warning",
        "loop {{ $labels.loop }} of the control process fails with {{ $labels.error }}",
    ),
)  # fmt: skip


def document() -> str:
    """The whole file, in YAML."""
    lines = [
        "# Prometheus alert rules. Made from tools/docs/alerts.py by `python -m tools.docs`; a test compares the two.",
        f"# The metrics' prefix is {registry.PREFIX}; the scrape job is expected to be called nodedb.",
        "groups:",
        "  - name: nodedb-node",
        "    rules:",
    ]
    for alert in ALERTS:
        lines += [f"      - alert: {alert.name}", f"        expr: {_quoted(alert.expr)}"]
        lines += [f"        for: {alert.minutes}m"] if alert.minutes else []
        lines += [f"        labels: {{ severity: {alert.severity} }}", "        annotations:"]
        lines += [f"          summary: {_quoted(alert.summary)}"]
        lines += [f"          runbook: docs/operations.md#{alert.name.lower()}"]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A YAML scalar in single quotes."""
    return "'" + text.replace("'", "''") + "'"
