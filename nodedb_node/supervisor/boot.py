"""What a child process is told at its start: one frozen struct, in an inherited descriptor whose number is on its
command line.

Invariant: everything a child needs to know about the node it belongs to is here, decided once by the supervisor, so
that no two processes of a node read configuration, ports or layout differently. A restarted child gets the same Boot
with the next generation. Nothing secret is on the command line. Reading the descriptor is child.py's part.
"""

from typing import Literal

import msgspec
from msgspec import Struct

from nodedb_node.config import Config

LIVES_BITS = 20  # lives of a process within one start of the node
STARTS_BITS = 32  # together they are exact also where a number is a double


class Ports(Struct, frozen=True):
    """Resolved ports, none is 0. The supervisor keeps each TCP port reserved, so a listener needs SO_REUSEPORT; the UDP
    sockets are its own and handed down (`Boot.lane_fd`): two sockets on one UDP port would share its datagrams."""

    clients_host: str
    clients: int  # shared by all workers
    workers: list[int]  # by worker
    http_host: str
    http: int
    peers_host: str = ""
    peers: list[int] = []  # UDP, by process: control first
    tls: int = 0  # shared by all workers; 0 = no port of its own for TLS
    tls_workers: list[int] = []  # by worker


class Boot(Struct, frozen=True, kw_only=True):
    """Shared memory and descriptors are valid in the child for its whole life; it must not close them."""

    role: Literal["control", "worker"]
    process: int  # number in shared memory: 0 = control, 1..workers = worker process - 1
    generation: int  # of this process: 1 at the node's start, + 1 with each restart
    workers: int
    supervisor_pid: int
    started_us: int  # CLOCK_BOOTTIME when the node was started
    node_id: str  # 40 hex digits
    cluster_id: str  # 32 hex digits
    node_generation: int  # number of starts of this data directory
    groups: int
    data_dir: str  # absolute, as all paths here
    layout_dir: str
    ports: Ports
    pins: list[list[int]]  # by process: the cores it runs on; empty = not pinned
    spares: list[list[int]]  # by process: cores that no worker is pinned to and this one may use for a while
    memory_nodes: list[int]  # by process: the NUMA node its memory is bound to; -1 = not bound
    shm_fd: int
    bell_fds: list[int]  # by process: eventfd doorbells
    status_fd: int  # to the supervisor: child.py writes it
    config: Config
    board_fds: list[int] = []  # by process: memory files where each shows its lanes (transport/board.py)
    lane_fd: int = -1  # this process's UDP socket, bound; the supervisor keeps it, so it outlives a restart. -1 = none
    to_workers: int = 0  # of workers.redistribute alone: the layout to fill
    to_layout_dir: str = ""

    @property
    def life(self) -> int:
        """Of this process, over all starts of the node: the one number by which peers tell its lives apart. The next
        one's is always higher."""
        assert 0 < self.generation < 1 << LIVES_BITS and self.node_generation < 1 << STARTS_BITS
        return (self.node_generation << LIVES_BITS) + self.generation

    @property
    def worker(self) -> int:
        """The worker's number, 0..workers - 1; control has none."""
        assert self.role == "worker", "control has no worker number"
        return self.process - 1

    def background_cores(self, own: int | None) -> list[int]:
        """Where threads of a pinned process that runs on `own` belong, so as not to take its core; empty = anywhere."""
        known = {core for cores in [*self.pins, self.spares[self.process]] for core in cores}
        return [] if own is None else sorted(known - {own})

    @property
    def worker_dir(self) -> str:
        """Holds wal/ and store/ of this worker; it exists."""
        return f"{self.layout_dir}/worker-{self.worker}"


def encode(boot: Boot) -> bytes:
    return msgspec.msgpack.encode(boot)


def decode(raw: bytes) -> Boot:
    return msgspec.msgpack.decode(raw, type=Boot)
