"""What control and workers tell each other about users, over their rings. Data only.

Invariant: a user's record is bytes that workers make and read (workers/acl); control orders, stores and hands out
versions of the whole set, and never looks inside one. A version is a number that grows by one with each change.
"""

from typing import Final

import msgspec
from msgspec import Struct

# Worker to control.
CHANGE: Final = 1
ACK: Final = 2
DENIED: Final = 3
READ_LOG: Final = 4
# Control to worker.
USERS: Final = 16
WELCOME: Final = 17
RESULT: Final = 18
LOG: Final = 19


class Change(Struct, frozen=True, array_like=True):
    """Store `puts` and forget `drops` if the set is still of version `expected`. `settles`: the configuration's own
    users are in it, clients may come."""

    expected: int
    puts: list[tuple[bytes, bytes]] = []
    drops: list[bytes] = []
    settles: bool = False


class Users(Struct, frozen=True, array_like=True):
    """The set at `version`: all of it, or what changed since the version before. `unsettled`: worker 0 is asked to
    bring in what the configuration says."""

    version: int
    full: bool
    unsettled: bool
    puts: list[tuple[bytes, bytes]]
    drops: list[bytes]


class Ack(Struct, frozen=True, array_like=True):
    """The worker acts by this version."""

    version: int


class Result(Struct, frozen=True, array_like=True):
    """Of a Change: done, durable and in effect in every worker; or another change came first; or why it cannot be."""

    done: bool
    refused: str = ""


class Denial(Struct, frozen=True, array_like=True):
    """Something a client was refused; times are milliseconds since 1970."""

    reason: str
    context: str
    object: bytes
    username: bytes
    client: str
    at_ms: int
    count: int = 1


class ReadLog(Struct, frozen=True, array_like=True):
    """The newest `count` entries, or `reset`."""

    count: int
    reset: bool = False


def encode(message: Struct) -> bytes:
    return msgspec.msgpack.encode(message)
