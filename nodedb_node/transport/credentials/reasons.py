"""Why a peer is refused: the closed list, each with the words for a log and its number for a closing frame.

Invariant: numbers are never given to another reason, so that peers of different versions name the same thing. A
refusal says nothing that the peer did not show us itself: it may be sent back.
"""

from enum import Enum

from msgspec import Struct


class Reason(Enum):
    """The value is the number on the wire."""

    NO_CERTIFICATE = 1
    MALFORMED = 2  # not a certificate, too large, or one that no issuer of ours would make
    WRONG_CHAIN = 3  # certificates beside the leaf that are not its authority's
    WRONG_ALGORITHM = 4
    OTHER_AUTHORITY = 5
    EXPIRED = 6
    NOT_YET_VALID = 7
    WRONG_USAGE = 8
    NO_NAME = 9
    SEVERAL_NAMES = 10
    MALFORMED_NAME = 11
    OTHER_CLUSTER = 12
    REVOKED = 13
    REMOVED_NODE = 14
    OTHER_NODE = 15
    UNKNOWN_NODE = 16
    PIN_MISMATCH = 17


class Refusal(Struct, frozen=True):
    """A peer that is not let in; `detail` is one line for the log."""

    reason: Reason
    detail: str

    def __str__(self) -> str:
        return f"{self.reason.name.lower().replace('_', '-')}: {self.detail}"
