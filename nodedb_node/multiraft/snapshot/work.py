"""What snapshots want of the disk and the store, part of every turn, and who does it.

SnapshotDisk is the seam: nodedb_node.storage.transfers does it with files and a real store, the simulator with twins.
Invariant: each Work is done once, in the order given; only what is short may overtake cuts and installs. Answers may
come at any later time. Work that takes long is a generator of small steps, to be spread over turns.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from nodedb_node.multiraft.snapshot.messages import Manifest
from nodedb_node.multiraft.snapshot.receiver import Begin, Discard, Write
from nodedb_node.multiraft.snapshot.sender import Read


class Cut(NamedTuple):
    """Make a snapshot of what the group's last checkpoint holds, then call snapshot_cut."""

    group: int


class Release(NamedTuple):
    """No transfer needs this cut any more."""

    manifest: Manifest


class Install(NamedTuple):
    """All chunks are written: sync, verify, install with `state` as the group's, durably; then call snapshot_installed
    or snapshot_not_installed. A Discard of the manifest before that takes it back."""

    manifest: Manifest
    state: bytes


Work = Cut | Read | Release | Begin | Write | Install | Discard


class SnapshotDamaged(ValueError):
    """The bytes contradict the format or their digest, or the store refused them."""


class SnapshotDisk(Protocol):
    """Every call may raise OSError: the disk is full or failed. A manifest that is not known here is none's fault but
    the disk's: OSError too."""

    def cut(self, group: int, chunk_bytes: int) -> Iterator[None]:
        """Steps; at their end made(group) is the manifest, without configuration."""

    def made(self, group: int) -> Manifest:
        """Of the cut whose steps have just ended."""

    def read(self, manifest: Manifest, number: int) -> bytes:
        """A chunk of a cut."""

    def release(self, manifest: Manifest) -> None:
        """Forget a cut."""

    def begin(self, manifest: Manifest) -> None:
        """An empty place for what arrives, in the place of any other of its group."""

    def write(self, manifest: Manifest, number: int, data: bytes) -> None:
        """A chunk that the receiver has checked."""

    def install(self, manifest: Manifest, state: bytes) -> Iterator[None]:
        """Steps; after the last one the group is at the manifest's index, durably, with this state. SnapshotDamaged:
        the whole is not what the manifest says."""

    def discard(self, manifest: Manifest) -> None:
        """Forget what arrived; nothing happens if it is not there."""

    def found(self) -> list[tuple[Manifest, int]]:
        """At the start: what earlier lives left, each with the number of leading chunks that check."""

    def close(self) -> None:
        """The end of this life: what arrived stays, cuts do not."""
