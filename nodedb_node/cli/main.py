"""The command line's frame: finds a verb's file when it is used, and turns errors into one clear line and an exit code.

Invariant: what a user did wrong never ends in a trace; a trace is a defect. Verbs not used are not imported, so that
`start` is quick.
"""

import importlib

import click

from nodedb_node.config import ConfigError
from nodedb_node.errors import Exit, StartError

VERBS = {
    "start": "start a node in the foreground",
    "status": "what a running node is doing",
    "doctor": "check this machine and data directory for what a node needs",
    "config": "print or check a configuration",
    "wal": "look into a write-ahead log",
    "cert": "the certificates by which nodes know each other",
    "peer": "other nodes, as this one can talk to them",
}


class Verbs(click.Group):
    """VERB -> the attribute `command` of nodedb_node.cli.VERB."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"nodedb_node.cli.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Without importing the verbs."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs)
def cli() -> None:
    """A distributed database node that speaks the Redis protocol."""


def main() -> int:
    try:
        result = cli.main(prog_name="nodedb-node", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else str(error))
        return Exit.USAGE.value
    except click.UsageError as error:
        return _say(
            f"{error.format_message()} (see {error.ctx.command_path if error.ctx else 'nodedb-node'} --help)",
            Exit.USAGE,
        )
    except click.Abort:
        return 130
    except ConfigError as error:
        return _say(str(error), Exit.CONFIG)
    except StartError as error:
        return _say(str(error), error.code)
    return int(result or 0)


def _say(text: str, code: Exit) -> int:
    for line in text.splitlines():
        click.echo(f"nodedb-node: {line}", err=True)
    return code.value
