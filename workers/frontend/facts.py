"""What INFO and CONFIG GET say, by Redis's names, from a worker's figures. Pure."""

import platform
from collections.abc import Mapping
from typing import NamedTuple

from nodedb_node.config import VALUE_BYTES_MAX
from nodedb_node.supervisor.boot import Boot

REDIS_VERSION = "7.0.15"


class Figures(NamedTuple):
    """Of the worker that answers."""

    pid: int
    uptime_s: int
    clients: int
    connections_max: int
    memory_bytes: int
    commands: int
    connections_accepted: int
    bytes_in: int
    bytes_out: int
    rows: int
    rows_with_expiry: int
    version: str


def settings(boot: Boot) -> dict[str, str]:
    """What clients and tools ask at connect."""
    clients = boot.config.clients
    return {
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "databases": "1",
        "maxclients": str(clients.connections_max),
        "maxmemory": "0",
        "maxmemory-policy": "noeviction",
        "proto-max-bulk-len": str(VALUE_BYTES_MAX),
        "client-query-buffer-limit": str(clients.query_bytes_max),
        "timeout": "0",
        "tcp-keepalive": "0",
        "port": str(boot.ports.clients),
        "bind": boot.ports.clients_host,
        "dir": boot.data_dir,
        "cluster-enabled": "yes",
        "io-threads": "1",
        "notify-keyspace-events": "",
        "protected-mode": "yes" if clients.protected_mode else "no",
        "aclfile": "",
        "acllog-max-len": "128",
    }


def info(boot: Boot, f: Figures) -> Mapping[str, Mapping[str, object]]:
    """INFO's sections; the figures are of the worker that answers."""
    return {
        "server": {
            "redis_version": REDIS_VERSION,
            "redis_mode": "cluster",
            "os": f"{platform.system()} {platform.release()} {platform.machine()}",
            "arch_bits": 64,
            "nodedb_version": f.version,
            "process_id": f.pid,
            "run_id": boot.node_id,
            "tcp_port": boot.ports.clients,
            "uptime_in_seconds": f.uptime_s,
            "uptime_in_days": f.uptime_s // 86400,
            "nodedb_worker": int(boot.worker),
            "nodedb_workers": boot.workers,
        },
        "clients": {
            "connected_clients": f.clients,
            "maxclients": f.connections_max,
            "blocked_clients": 0,
        },
        "memory": {"used_memory": f.memory_bytes, "maxmemory": 0, "maxmemory_policy": "noeviction"},
        "persistence": {"loading": 0, "aof_enabled": 1, "rdb_bgsave_in_progress": 0},
        "stats": {
            "total_connections_received": f.connections_accepted,
            "total_commands_processed": f.commands,
            "total_net_input_bytes": f.bytes_in,
            "total_net_output_bytes": f.bytes_out,
        },
        "replication": {"role": "master", "connected_slaves": 0},
        "cluster": {"cluster_enabled": 1},
        "keyspace": {"db0": f"keys={f.rows},expires={f.rows_with_expiry},avg_ttl=0"} if f.rows else {},
    }
