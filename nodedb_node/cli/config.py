"""nodedb-node config print|lint|doc: what a node would run with, whether it would start with it, and the table of all
keys."""

import click

from nodedb_node.cli.load import load_config
from nodedb_node.config import SECTIONS, Key, keys, to_toml, toml_value

INTRODUCTION = """# Configuration

Made from nodedb_node/config.py by `nodedb-node config doc`; a test compares the two.

A node needs no configuration. Settings come from, each winning over the one before: the default; one TOML file
(`--config FILE` or `NODEDB_CONFIG`); variables named `NODEDB_SECTION_KEY`, such as `NODEDB_CLIENTS_PORT=6380`,
lists with commas; the options of `nodedb-node start`: `--data-dir` ([node] data_dir), `--bind` ([node] bind),
`--port` ([clients] port), `--worker-port` ([clients] worker_port), `--http-port` ([http] port), `--peer-port` ([peers]
port), `--peer-worker-port` ([peers] worker_port), `--peers` ([peers] security), `--workers` ([cpu] workers),
`--log-level` ([log] level).

What is unknown or wrong is refused with its place, what was expected and the nearest known name; exit code 78.
`nodedb-node config lint FILE` checks without starting, `nodedb-node config print` shows what a node would run
with.

Relations between limits, checked at every start: `query_bytes_max`, `output_bytes_max` and `segment_bytes` hold the
largest command (17 MiB), `overflow_bytes` two of them; `memory_bytes_max` >= 2 x `dirty_bytes_max`;
`backoff_first_ms` <= `backoff_max_ms`; `control_core` is not reserved. Sizes that belong to a format (key 64 KiB, value
16 MiB, entry 17 MiB, batch 1 MiB or 4096 commands) are not settings.
"""


@click.group("config")
def command() -> None:
    """Print or check a configuration."""


@command.command("print")
@click.option("--config", "config_file", metavar="FILE", help="TOML file; also $NODEDB_CONFIG")
def print_config(config_file: str | None) -> int:
    """The configuration that results from defaults, file and environment, as a file, with units and reasons."""
    click.echo(to_toml(load_config(config_file, {})), nl=False)
    return 0


@command.command("lint")
@click.argument("file", required=False)
def lint(file: str | None) -> int:
    """Check a file (and the environment): one line per problem, exit code 78 when there is one."""
    load_config(file, {})
    click.echo("ok")
    return 0


@command.command("doc")
def doc() -> int:
    """The table of all keys, as docs/configuration.md has it."""
    click.echo(document(), nl=False)
    return 0


def document() -> str:
    """docs/configuration.md."""
    parts = [INTRODUCTION]
    for section, kind in SECTIONS.items():
        parts.append(
            f"\n## [{section}]\n\n{kind.__doc__}\n\n| key | default | unit | values | why |\n|---|---|---|---|---|\n"
        )
        parts += [_row(key) for key in keys() if key.section == section]
    return "".join(parts)


def _row(key: Key) -> str:
    return f"| `{key.name}` | `{toml_value(key.default)}` | {key.unit} | {key.expected} | {key.reason} |\n"
