"""Documents made from the code: docs/metrics.md and docs/alerts.yml."""
