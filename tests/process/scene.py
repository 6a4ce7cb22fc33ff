"""What the fault tests share: a node with fixed worker ports, a load with a recorder on it, keys and connections by
worker."""

from __future__ import annotations

from pathlib import Path

from tests.process.node import Node
from tests.process.recorder import Recorder, shared_targets, worker_targets
from tests.process.wire import Connection, slot, slot_ports
from tools.bench.servers import free_ports

GAP_SECONDS_MAX = 1.0
"""What a client of an unharmed core may wait while something else fails; generous, for busy machines."""
CONNECTS_MAX = 200


def new_node(directory: Path, workers: int = 2, **settings: object) -> Node:
    """Not started yet. Settings are spelled section__key. Worker ports stay the same at every start."""
    spelled = {name.replace("__", "."): value for name, value in settings.items()}
    node = Node(directory, spelled, workers=workers)
    first = free_ports(workers)
    node.worker_ports = [first + worker for worker in range(workers)]
    directory.mkdir(parents=True, exist_ok=True)
    return node


def load_on(node: Node, seed: int, prefix: bytes = b"") -> Recorder:
    """A recorder that runs: clients on the shared port with any keys, one on each worker port with its keys."""
    recorder = Recorder(shared_targets(node.port, 3, prefix) + worker_targets(node.port, 1, prefix), seed)
    recorder.start()
    recorder.wait_acked(300)
    return recorder


def owned_key(node: Node, worker: int) -> bytes:
    owners = slot_ports(node.port)
    return next(key for key in (b"key:%d" % i for i in range(10_000)) if owners[slot(key)] == node.worker_ports[worker])


def shared_connection(node: Node, worker: int, timeout_s: float) -> Connection:
    """A connection to the shared port that this worker accepted; the kernel chooses, so ask until it did."""
    for _ in range(CONNECTS_MAX):
        link = Connection(node.port, timeout_s)
        nodes = link.call("CLUSTER", "NODES")
        assert isinstance(nodes, bytes), nodes
        mine = next(line for line in nodes.decode().splitlines() if "myself" in line)
        if f":{node.worker_ports[worker]}@" in mine:
            return link
        link.close()
    raise AssertionError("the kernel never chose that worker")
