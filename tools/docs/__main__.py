"""python -m tools.docs: writes docs/metrics.md and docs/alerts.yml from the metric registry. World file."""

from pathlib import Path

from tools.docs import alerts, metrics

DOCS = Path(__file__).resolve().parents[2] / "docs"


def main() -> None:
    (DOCS / "metrics.md").write_text(metrics.document())
    (DOCS / "alerts.yml").write_text(alerts.document())


if __name__ == "__main__":
    main()
