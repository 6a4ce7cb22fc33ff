"""nodedb-node start: the node in the foreground. World file: notes the time of the start."""

import time

import click

from nodedb_node.cli.load import load_config
from nodedb_node.config import Sections
from nodedb_node.supervisor.run import run


@click.command("start")
@click.option("--config", "config_file", metavar="FILE", help="TOML file; also $NODEDB_CONFIG")
@click.option("--data-dir", metavar="DIR", help="where everything is kept (default ./nodedb-data)")
@click.option("--bind", metavar="ADDRESS", help="address to listen on (default 127.0.0.1)")
@click.option("--port", metavar="N", help="Redis protocol, shared by all workers (default 6379)")
@click.option("--worker-port", metavar="N", help="Redis protocol, worker i on N + i (default 7000)")
@click.option("--http-port", metavar="N", help="health and metrics (default 6480)")
@click.option("--peer-port", metavar="N", help="other nodes, UDP, control process (default 6490)")
@click.option("--peer-worker-port", metavar="N", help="other nodes, UDP, worker i on N + i (default 6500)")
@click.option("--peers", metavar="HOW", help='mtls (default), or "insecure": nobody is checked, anybody can be a peer')
@click.option("--workers", metavar="N", help='worker processes, or "auto" (default: allowed cores - 1)')
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error (default info)")
def command(config_file: str | None, **options: str | None) -> int:
    """Start a node in the foreground. SIGTERM or Ctrl-C drains and stops it; a second one stops it at once."""
    started_us = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
    return run(load_config(config_file, flags(options)), started_us)


KEYS = {
    "data_dir": ("node", "data_dir"),
    "bind": ("node", "bind"),
    "port": ("clients", "port"),
    "worker_port": ("clients", "worker_port"),
    "http_port": ("http", "port"),
    "peer_port": ("peers", "port"),
    "peer_worker_port": ("peers", "worker_port"),
    "peers": ("peers", "security"),
    "workers": ("cpu", "workers"),
    "log_level": ("log", "level"),
}


def flags(options: dict[str, str | None]) -> Sections:
    """Options that were given, by section and key."""
    given: Sections = {}
    for option, value in options.items():
        if value is not None:
            section, name = KEYS[option]
            given.setdefault(section, {})[name] = value
    return given
