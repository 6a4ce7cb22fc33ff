"""Which lanes a process has, in a memory file of its own that control reads for the status.

Invariant: what is read is one whole writing (a checksum tells), and it names the process that wrote it, so what a dead
one left is told apart. No disk is touched: a process that shows its lanes never waits. World file.
"""

from __future__ import annotations

import os
import struct

import msgspec
from msgspec import Struct

from nodedb_node.native import kernels
from nodedb_node.transport.lane import LaneStatus

BYTES_MAX = 8 << 20
HEAD = struct.Struct("<II")  # length, CRC-32C of the JSON that follows


class LaneBoard(Struct, frozen=True, kw_only=True):
    """One process's lanes at one moment."""

    pid: int
    generation: int
    host: str
    port: int
    insecure: bool
    datagram_bytes: int  # the largest in use, of all connections; 0 = there is none
    lanes: tuple[LaneStatus, ...]


def write(descriptor: int, board: LaneBoard) -> None:
    """Replace what is shown. Lanes that do not fit are left out."""
    data = msgspec.json.encode(board)
    if len(data) > BYTES_MAX:
        data = msgspec.json.encode(msgspec.structs.replace(board, lanes=()))
    whole = HEAD.pack(len(data), kernels.crc32c(data)) + data
    written = os.pwrite(descriptor, whole, 0)
    assert written == len(whole), "memory files take a write whole"


def read(descriptor: int) -> LaneBoard | None:
    """None when nothing is shown, or a writing is under way: the next look finds it."""
    whole = os.pread(descriptor, HEAD.size + BYTES_MAX, 0)
    if len(whole) < HEAD.size:
        return None
    length, crc = HEAD.unpack_from(whole)
    data = whole[HEAD.size : HEAD.size + length]
    if len(data) != length or kernels.crc32c(data) != crc:
        return None
    return msgspec.json.decode(data, type=LaneBoard)
