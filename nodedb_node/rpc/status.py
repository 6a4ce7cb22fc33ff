"""How a call can end: an answer, a typed refusal of the peer, or a fate the caller must judge itself.

Invariant: what a client can be told and whether it may ask again is decided by type and fields, never by text. A status
never ends a session and never counts against a breaker; only connectivity does. New fields go to the end.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from nodedb_node.errors import UNREADABLE
from nodedb_node.ids import NodeId


class Status(Struct, frozen=True, gc=False, array_like=True):
    """Base of all refusals; each has a number as its tag."""


class NotLeader(Status, frozen=True, gc=False, array_like=True, tag=1):
    """This replica does not lead the group: never appended. hint: who may."""

    hint: NodeId | None = None
    term: int = 0


class WrongOwner(Status, frozen=True, gc=False, array_like=True, tag=2):
    """The vShard is not owned here under `epoch`, the receiver's own: never appended."""

    epoch: int
    hint: NodeId | None = None


class StaleEpoch(Status, frozen=True, gc=False, array_like=True, tag=3):
    """Routed under an older cluster epoch than the receiver's: refresh, then ask again."""

    current: int


class Overloaded(Status, frozen=True, gc=False, array_like=True, tag=4):
    """A queue is full: never appended."""

    retry_after_ms: int
    what: str = ""


class DeadlineExceeded(Status, frozen=True, gc=False, array_like=True, tag=5):
    """Not begun in time: never appended."""


class Unsupported(Status, frozen=True, gc=False, array_like=True, tag=6):
    """The receiver has no handler for this type in the negotiated version."""

    number: int


class Internal(Status, frozen=True, gc=False, array_like=True, tag=7):
    """The receiver's handler failed; the text is for its log and ours, nobody parses it."""

    what: str


class OutcomeUnknown(Status, frozen=True, gc=False, array_like=True, tag=8):
    """Sent, and no answer came: it may or may not have happened. Made by the caller's side or by a deposed leader."""

    why: str = ""


Refused = NotLeader | WrongOwner | StaleEpoch | Overloaded | DeadlineExceeded | Unsupported
AnyStatus = Refused | Internal | OutcomeUnknown

# Nothing happened: the same call may be made again, there or elsewhere.
NEVER_APPENDED = (NotLeader, WrongOwner, StaleEpoch, Overloaded, DeadlineExceeded, Unsupported)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyStatus] = msgspec.msgpack.Decoder(AnyStatus)

TEXT_MAX = 1024


def encode(status: AnyStatus) -> bytes:
    return _encoder.encode(status)


def decode(body: bytes) -> AnyStatus:
    """The status; one that this version does not know, or garbled, is Internal: the call failed, we cannot say how."""
    try:
        return _decoder.decode(body)
    except UNREADABLE as error:
        return Internal(f"a status this version cannot read: {error}"[:TEXT_MAX])
