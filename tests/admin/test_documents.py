"""docs/metrics.md and docs/alerts.yml are what the registry makes of them, and every alert has its paragraph."""

import re
from pathlib import Path

import pytest

from nodedb_node.admin import registry
from nodedb_node.errors import RETRYABLE, Kind
from tools.docs import alerts, metrics

DOCS = Path(__file__).resolve().parents[2] / "docs"
AGAIN = "run: python -m tools.docs"


def test_metrics_document() -> None:
    assert (DOCS / "metrics.md").read_text() == metrics.document(), AGAIN


def test_alert_rules() -> None:
    assert (DOCS / "alerts.yml").read_text() == alerts.document(), AGAIN


def test_every_metric_is_in_a_part_of_the_document() -> None:
    assert [metric for _, part in metrics.PARTS for metric in part] == list(registry.ALL)


@pytest.mark.parametrize("alert", alerts.ALERTS, ids=lambda alert: alert.name)
def test_an_alert_is_sound(alert: alerts.Alert) -> None:
    exposed = {metric.exposed for metric in registry.ALL}
    histograms = {metric.exposed + "_bucket" for metric in registry.ALL if metric.kind is registry.Kind.HISTOGRAM}
    used = set(re.findall(r"nodedb_\w+", alert.expr))
    assert used <= exposed | histograms
    assert used or alert.name == "NodedbNotAnswering"
    assert alert.expr.count("(") == alert.expr.count(")")
    labels = set(re.findall(r"\$labels\.(\w+)", alert.summary))
    known = {label for metric in registry.ALL if metric.exposed in alert.expr for label in metric.labels}
    assert labels <= known


@pytest.mark.parametrize("alert", alerts.ALERTS, ids=lambda alert: alert.name)
def test_an_alert_is_explained(alert: alerts.Alert) -> None:
    assert f"### {alert.name}\n" in (DOCS / "operations.md").read_text()


def test_alert_names_are_unique() -> None:
    assert len({alert.name for alert in alerts.ALERTS}) == len(alerts.ALERTS)


@pytest.mark.parametrize("page", ["faults.md", "modules.md", "security.md"])
def test_named_tests_exist(page: str) -> None:
    """A claim whose test was renamed or removed is a claim without proof."""
    named = set(re.findall(r"tests/[\w/]+\.(?:py|c|toml)(?:::\w+)?", (DOCS / page).read_text()))
    assert named
    missing = []
    for reference in sorted(named):
        path, _, name = reference.partition("::")
        file = DOCS.parent / path
        if not file.exists() or (name and f"def {name}(" not in file.read_text()):
            missing.append(reference)
    assert not missing


def test_the_inventory_is_whole() -> None:
    rows = re.findall(r"^\| (\d+) \|.*\|$", (DOCS / "modules.md").read_text().partition("## Names")[0], re.MULTILINE)
    assert [int(row) for row in rows] == list(range(1, 47))


def test_a_part_that_is_claimed_names_its_proof() -> None:
    for line in (DOCS / "modules.md").read_text().partition("## Names")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if len(cells) == 7 and cells[0].isdecimal() and cells[4] != "planned":
            assert cells[6] != "-", line


def test_the_table_of_errors_is_that_of_the_code() -> None:
    """What operations.md tells to send again is what errors.py calls retryable."""
    text = (DOCS / "operations.md").read_text().partition("## What clients are told")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `-([A-Z]+)[^|]*\|[^|]*\| (yes|no)", text, re.MULTILINE)
    told = {word: again == "yes" for word, again in rows}
    table = {kind.name: kind in RETRYABLE for kind in Kind if kind.value.startswith(kind.name)}
    assert told == {name: again for name, again in table.items() if name != "NOPROTO"}


def test_a_fault_has_one_id() -> None:
    ids = re.findall(r"^\| ([A-Z]\d+[a-z]?) \|", (DOCS / "faults.md").read_text(), re.MULTILINE)
    assert len(ids) > 50 and sorted(set(ids)) == sorted(ids)
