"""The simulated disk of snapshots that arrive loses at a power cut what was not synced, and nothing else."""

from nodedb_node.multiraft.snapshot.messages import Manifest
from tests.sim.transfers import Partial


def test_a_chunk_written_twice_is_lost_once() -> None:
    """Found by the swarm (snapshots, 3620182528): a power cut took it twice."""
    partial = Partial(Manifest(1, 5, 1, b"", 10, 10, b"digest"))
    partial.chunks[0] = (1, b"a")
    partial.dirty += [0, 0]
    partial.cut_power(lambda: False)
    assert not partial.chunks and not partial.dirty
