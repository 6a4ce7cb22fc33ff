"""Documents made from the code: docs/metrics.md, docs/alerts.yml, docs/commands.md."""
