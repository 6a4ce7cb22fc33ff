"""Which lanes a process has, as a small file that control reads for the status: `run/lanes-N` in the data directory.

Invariant: the file is whole or absent (written beside, then renamed; not synced: it says nothing after a crash), and a
row names the process that wrote it, so what a dead one left is told apart. World file.
"""

from __future__ import annotations

import os

import msgspec
from msgspec import Struct

from nodedb_node.transport.lane import LaneStatus

FILE_BYTES_MAX = 8 << 20


class LaneBoard(Struct, frozen=True, kw_only=True):
    """One process's lanes at one moment."""

    pid: int
    generation: int
    host: str
    port: int
    insecure: bool
    datagram_bytes: int  # the largest in use, of all connections; 0 = there is none
    lanes: tuple[LaneStatus, ...]


def write(data_dir: str, process: int, board: LaneBoard) -> None:
    directory = os.path.join(data_dir, "run")
    os.makedirs(directory, mode=0o700, exist_ok=True)
    path = os.path.join(directory, f"lanes-{process}")
    with open(path + ".new", "wb") as file:
        file.write(msgspec.json.encode(board))
    os.rename(path + ".new", path)


def read(data_dir: str, process: int) -> LaneBoard | None:
    """None when there is none, or when it cannot be read: it is only shown."""
    try:
        with open(os.path.join(data_dir, "run", f"lanes-{process}"), "rb") as file:
            return msgspec.json.decode(file.read(FILE_BYTES_MAX), type=LaneBoard)
    except (OSError, msgspec.DecodeError):
        return None

