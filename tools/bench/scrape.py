"""The node's own /metrics as numbers: totals over its workers, and histogram shares between two scrapes.

It reads the public exposition like any monitoring system and knows nothing of the node's memory.
"""

from __future__ import annotations

import time
import urllib.request
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

SCRAPE_SECONDS_MAX = 5.0


@dataclass(frozen=True)
class Scrape:
    moment: float
    """CLOCK_MONOTONIC when the answer had arrived."""
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    """name → core → value, without the prefix nodedb_; only metrics of workers."""
    buckets: dict[str, dict[str, dict[float, float]]] = field(default_factory=dict)
    """histogram → core → bound → cumulative count."""

    def total(self, name: str) -> float:
        return sum(self.values.get(name, {}).values())


def scrape(http_port: int) -> Scrape:
    with urllib.request.urlopen(f"http://127.0.0.1:{http_port}/metrics", timeout=SCRAPE_SECONDS_MAX) as answer:
        text = answer.read().decode()
    found = Scrape(time.monotonic())
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            core, name = one.labels.get("core"), one.name.removeprefix("nodedb_")
            if core is None:
                continue
            if name.endswith("_bucket"):
                bounds = found.buckets.setdefault(name.removesuffix("_bucket"), {}).setdefault(core, {})
                bounds[float(one.labels["le"])] = one.value
            else:
                found.values.setdefault(name, {})[core] = one.value
    return found


def bound_of_percentile(before: Scrape, after: Scrape, name: str, percent: float) -> dict[str, float]:
    """core → upper bound of the bucket that holds the percentile of what was counted between two scrapes."""
    bounds: dict[str, float] = {}
    for core, counts in after.buckets.get(name, {}).items():
        start = before.buckets.get(name, {}).get(core, {})
        fresh = {bound: count - start.get(bound, 0.0) for bound, count in sorted(counts.items())}
        needed = percent / 100 * max(fresh.values(), default=0.0)
        bounds[core] = next((bound for bound, count in fresh.items() if count >= needed), float("nan"))
    return bounds
