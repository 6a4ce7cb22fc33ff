"""What a run is made of: a cluster, workloads, weather, crash points and faults, read from specs/*.toml.

Invariant: an unknown key or fault is an error, so that a typing mistake does not make a quiet run. Times end in their
unit. Nothing here runs anything.
"""

from pathlib import Path

import msgspec

SPECS = Path(__file__).parent / "specs"


class ClusterShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """nodes × workers; every group has `voters` founders and lives on worker group % workers of its nodes."""

    nodes: int = 3
    workers: int = 1
    groups: int = 1
    voters: int = 3
    checkpoint_entries: int = 150
    drift_ppm: int = 8_000  # clocks run this much too fast or slow, at most
    lease: bool = True
    batch_bytes_max: int = 4_000
    inflight_messages_max: int = 8
    uncommitted_bytes_max: int = 200_000
    groups_per_turn: int = 256


class NetworkWeather(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    delay_us: tuple[int, int] = (150, 700)
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    late_us: int = 60_000


class DiskWeather(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sync_us: tuple[int, int] = (80, 400)
    fail: float = 0.0  # of a write or sync: the process must end


class SnapshotWeather(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Chances per piece of a snapshot."""

    corrupt: float = 0.0  # a chunk arrives damaged
    rot: float = 0.0  # a chunk is damaged after it was written
    full: float = 0.0  # no space for a chunk
    fail: float = 0.0  # the disk fails under a cut, a read or a write


class WorkloadShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """kind: register, counter, list or set. tokens: share of clients whose writes carry (client, sequence)."""

    kind: str
    clients: int = 3
    keys: int = 2
    reads: float = 0.4
    tokens: float = 0.8
    think_us: int = 3_000
    padding: int = 0


class FaultShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """kind: a method of faults.Injector; it begins every `every_ms` and lasts `for_ms` where it lasts."""

    kind: str
    every_ms: tuple[int, int] = (2_000, 6_000)
    for_ms: tuple[int, int] = (300, 3_000)


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str = ""
    about: str = ""
    steps: int = 120_000
    cluster: ClusterShape = ClusterShape()
    network: NetworkWeather = NetworkWeather()
    disk: DiskWeather = DiskWeather()
    snapshot: SnapshotWeather = SnapshotWeather()
    workload: tuple[WorkloadShape, ...] = ()
    crash: dict[str, float] = {}
    restart_ms: tuple[int, int] = (20, 2_500)
    fault: tuple[FaultShape, ...] = ()
    quiet: tuple[str, ...] = ()  # faults that may stay away in a short run


def load(name: str) -> Spec:
    path = SPECS / f"{name}.toml"
    spec = msgspec.toml.decode(path.read_bytes(), type=Spec)
    return msgspec.structs.replace(spec, name=name)


def names() -> list[str]:
    return sorted(path.stem for path in SPECS.glob("*.toml"))
