"""docs/metrics.md from the metric registry: every metric with kind, unit, labels and help."""

from nodedb_node.admin import registry
from nodedb_node.admin.registry import Kind, Metric

HEAD = """# Metrics

Made from nodedb_node/admin/registry.py by `python -m tools.docs`; a test compares the two.

`GET /metrics` on the HTTP port (default 127.0.0.1:6480) answers in Prometheus's text format, or in OpenMetrics 1.0
where the scraper asks for it. Counters lie in memory that a worker shares with control: a scrape reads them there and
never disturbs a worker. Most go on over the restart of a worker or of control, those of the log and the store begin
at zero with their worker; all begin at zero with the node. A process that is not running keeps its counters and has
no usage.

Histograms have bounds that are powers of two (of microseconds, milliseconds, bytes or commands, given in base units):
a value counted below a bound was below it, and a quantile is exact to a factor of two. `{core}` is a worker's number,
`{process}` is `control` or `worker-N`, `{loop}` a loop of the control process.

Alert rules over these names are in [alerts.yml](alerts.yml), what to do about them in [operations.md](operations.md).
"""

PARTS = (
    ("The node", registry.NODE_METRICS),
    ("Peers", registry.PEER_METRICS),
    ("Processes", registry.PROCESS_METRICS),
    ("Lanes: sessions with processes of other nodes", registry.LANE_METRICS),
    ("Workers", registry.WORKER_METRICS),
    ("Raft groups", (*registry.GROUP_SUMS, *registry.GROUP_METRICS)),
    ("Loops of the control process", registry.LOOP_METRICS),
)


def document() -> str:
    """The whole file."""
    lines = [HEAD]
    for title, metrics in PARTS:
        lines += [f"## {title}", "", "| metric | kind | unit | labels | what |", "|---|---|---|---|---|"]
        lines += [row(metric) for metric in metrics]
        lines.append("")
    return "\n".join(lines)


def row(metric: Metric) -> str:
    """One line of a table."""
    labels = ", ".join(metric.labels) or "-"
    return f"| `{metric.exposed}` | {metric.kind.value}{bounds(metric)} | {metric.unit} | {labels} | {metric.help} |"


def bounds(metric: Metric) -> str:
    """First and last bound of a histogram, as they are exposed."""
    if metric.kind is not Kind.HISTOGRAM:
        return ""
    first, last = ((1 << exponent) * metric.scale for exponent in (metric.exponents[0], metric.exponents[-1]))
    return f", {first:.3g} .. {last:.3g}"
