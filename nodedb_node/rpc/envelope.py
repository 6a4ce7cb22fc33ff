"""Routed requests: which vShard, under which routing epoch, what; and the fence of cluster epochs.

Invariant: the owner compares epochs before it looks at a payload and answers wrong-owner rather than guess; the cluster
epoch moves only when this node's own metadata log says so, never by what a peer claims.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from nodedb_node.ids import VShard
from nodedb_node.rpc.status import StaleEpoch


class Envelope(Struct, frozen=True, gc=False, array_like=True):
    """A routed request. epoch: of this vShard's routing; cluster_epoch: the membership it was routed under."""

    vshard: VShard
    epoch: int
    cluster_epoch: int
    kind: int
    payload: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)


def encode(envelope: Envelope) -> bytes:
    return _encoder.encode(envelope)


def decode(body: bytes) -> Envelope:
    """The envelope; one of errors.UNREADABLE otherwise."""
    return _decoder.decode(body)


class EpochFence:
    """The cluster epoch as this node knows it."""

    def __init__(self, current: int) -> None:
        self.current = current
        self.behind = 0  # the highest epoch a peer claimed that we have not seen committed: a reason to refresh

    def committed(self, epoch: int) -> None:
        """Our own metadata log has applied this epoch. It never goes back."""
        assert epoch >= self.current, f"cluster epoch went back from {self.current} to {epoch}"
        self.current = epoch
        if self.behind <= epoch:
            self.behind = 0

    def judge(self, claimed: int) -> StaleEpoch | None:
        """None = go on. A newer claim only makes us ask our own metadata; it changes nothing else."""
        if claimed < self.current:
            return StaleEpoch(self.current)
        if claimed > self.current:
            self.behind = max(self.behind, claimed)
        return None
