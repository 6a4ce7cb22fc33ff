"""How many descriptors a process of the node may open, and how many clients fit into that. World file: resource limits.

Invariant: a worker takes no more clients than leave descriptors for its own files. A listener that cannot accept for
lack of them would be ready for ever: the loop would turn without end, and the clients at the door would hear nothing.
"""

import resource

OWN = 1_000
"""Segments, rings, environments, listeners and the connections to other nodes, of each process; generous."""
CLIENTS_MIN = 64


def raise_limit() -> None:
    """As many as the system lets this process and its children have without asking anybody."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def allowed() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft >= 0 else 1 << 62


def clients(wanted: int, files: int) -> int:
    """Of those wanted, what a process with this limit has room for. Below twice OWN half of the limit is its own."""
    return max(CLIENTS_MIN, min(wanted, files - min(OWN, files // 2)))
