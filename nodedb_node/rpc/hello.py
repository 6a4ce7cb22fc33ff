"""The first words of a connection, both ways: who, of which cluster, which start, which versions, for what.

Invariant: nothing else is interpreted before both greetings were judged, and judging changes nothing. One version range
and one outcome per connection: the highest version both speak. Identity itself is the certificate's; a greeting only
has to agree with it. Fields are added at the end with a default; what a newer peer adds is skipped.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec
from msgspec import Struct

from nodedb_node.errors import UNREADABLE
from nodedb_node.ids import ClusterId, NodeId, Process

MAGIC = b"ndb\x00lane"
VERSION_MIN = 1
VERSION_MAX = 1
ALPN = "nodedb-lane"

# A tool's lane, and "whichever lane it is" where it dials one; the node that is dialled without being known.
ANY_LANE = Process(0xFFFF)
ANYONE = NodeId("")


class Feature(IntEnum):
    """Bits of `features`; used where both have them. What changes replicated state is gated by metadata instead."""

    BULK_RESUME = 0


FEATURES = 1 << Feature.BULK_RESUME


class Why(IntEnum):
    """Refusals of a connection; also its QUIC application close code, above 0x100."""

    GOODBYE = 0x100  # an orderly end: drained, or told to stop
    NO_CERTIFICATE = 0x101
    IDENTITY = 0x102  # the certificate is not good, or is another node's than the one that was dialled or is greeted as
    NOT_MEMBER = 0x103
    REMOVED = 0x104
    CLUSTER_MISMATCH = 0x105
    VERSION = 0x106
    STALE_GENERATION = 0x107
    CLONE = 0x108  # the same generation with another nonce: two processes believe that they are this node
    GARBLED = 0x109  # not this protocol, or not in time
    FLOOD = 0x10A  # streams that have no class
    REPLACED = 0x10B  # a newer connection of the same peer took its place
    BUSY = 0x10C  # too many greetings in progress
    SPOOFED = 0x10D  # a message claims another origin than the connection's
    CERTIFICATE_CHANGED = 0x10E  # the peer's certificate was revoked, or ours replaced


class Hello(Struct, frozen=True, gc=False, array_like=True):
    """What each side says first. nonce: random per process start, tells two processes of one generation apart."""

    magic: bytes
    version_min: int
    version_max: int
    features: int
    cluster_id: ClusterId
    node_id: NodeId
    generation: int
    nonce: bytes
    membership_epoch: int
    lane: Process  # of the sender
    to_lane: Process  # the lane it wants
    bulk: bool
    software: str = ""


class Refusal(Struct, frozen=True, gc=False):
    """Why there is no session: the close code and reason of the connection; `text` is for people."""

    why: Why
    text: str = ""


class Local(Struct, frozen=True, gc=False):
    """This process as its greetings tell it."""

    cluster_id: ClusterId
    node_id: NodeId
    generation: int
    nonce: bytes
    lane: Process
    membership_epoch: int = 0
    software: str = ""
    version_min: int = VERSION_MIN
    version_max: int = VERSION_MAX

    def hello(self, to_lane: Process, bulk: bool) -> Hello:
        return Hello(
            magic=MAGIC,
            version_min=self.version_min,
            version_max=self.version_max,
            features=FEATURES,
            cluster_id=self.cluster_id,
            node_id=self.node_id,
            generation=self.generation,
            nonce=self.nonce,
            membership_epoch=self.membership_epoch,
            lane=self.lane,
            to_lane=to_lane,
            bulk=bulk,
            software=self.software,
        )


TEXT_MAX = 200
NONCE_BYTES = 16
_encoder = msgspec.msgpack.Encoder()
_hello = msgspec.msgpack.Decoder(Hello)


def encode(hello: Hello) -> bytes:
    return _encoder.encode(hello)


def decode_hello(body: bytes) -> Hello | Refusal:
    """A greeting whose form is right, or the refusal it deserves."""
    try:
        hello = _hello.decode(body)
    except UNREADABLE as error:
        return Refusal(Why.GARBLED, f"not a greeting: {error}"[:TEXT_MAX])
    if hello.magic != MAGIC:
        return Refusal(Why.GARBLED, "not a greeting of this protocol")
    if hello.version_min > hello.version_max or hello.version_min < 1:
        return Refusal(Why.GARBLED, f"versions {hello.version_min}..{hello.version_max} are no range")
    if len(hello.nonce) != NONCE_BYTES or hello.generation < 1:
        return Refusal(Why.GARBLED, "no generation, or a nonce of another length")
    return hello


def negotiate(local: Local, peer: Hello) -> int | Refusal:
    """The highest version both speak."""
    version = min(local.version_max, peer.version_max)
    if version < max(local.version_min, peer.version_min):
        ours, theirs = f"{local.version_min}..{local.version_max}", f"{peer.version_min}..{peer.version_max}"
        return Refusal(Why.VERSION, f"we speak {ours}, you {theirs}: upgrade the older one")
    return version


def judge(local: Local, peer: Hello, certified: NodeId | None, dialled: NodeId | None) -> int | Refusal:
    """The version of the session, or the refusal.

    certified: the node the certificate names, None in insecure mode; dialled: whom we wanted, None = whoever it is.
    """
    version = negotiate(local, peer)
    if isinstance(version, Refusal):
        return version
    if peer.cluster_id != local.cluster_id:
        text = f"this is cluster {local.cluster_id}, you are of {peer.cluster_id}"
        return Refusal(Why.CLUSTER_MISMATCH, text[:TEXT_MAX])
    if certified is not None and peer.node_id != certified:
        return Refusal(Why.IDENTITY, f"greeted as {peer.node_id}, certified as {certified}"[:TEXT_MAX])
    if dialled is not None and peer.node_id != dialled:
        return Refusal(Why.IDENTITY, f"dialled {dialled}, found {peer.node_id}"[:TEXT_MAX])
    return version
