"""python -m tools.docs: writes docs/metrics.md and docs/alerts.yml from the metric registry, docs/commands.md from
the command table. World file."""

from pathlib import Path

from tools.docs import alerts, commands, metrics

DOCS = Path(__file__).resolve().parents[2] / "docs"


def main() -> None:
    (DOCS / "metrics.md").write_text(metrics.document())
    (DOCS / "alerts.yml").write_text(alerts.document())
    (DOCS / "commands.md").write_text(commands.document())


if __name__ == "__main__":
    main()
