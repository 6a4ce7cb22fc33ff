"""What a log directory holds, for people: a summary with the first damage, every record, and the cut that gives up
what is behind the damage. World file: the cut writes.

Invariant: looking changes nothing and needs the directory's lock, so that a log in use is not taken for a torn one.
The cut copies or moves everything it takes away into files named cut-*, which nothing else reads.
"""

import os
import shutil
from collections.abc import Iterator
from typing import NamedTuple

from nodedb_node.native import wal
from nodedb_node.native.wal import Append, Record, Segment
from nodedb_node.storage import recovery
from nodedb_node.storage.directory import SEGMENT_NAME, LogDirectory
from nodedb_node.storage.recovery import LogDamaged, Recovered


class Summary(NamedTuple):
    """A log as recovery sees it; damage is None when a node would start with it."""

    segments: list[str]
    groups: list[str]
    end: str
    damage: LogDamaged | None


def summary(directory: LogDirectory) -> Summary:
    """Reads everything. LogTooNew passes through: there is nothing to say about bytes we do not know."""
    recovered = Recovered(directory)
    damage = None
    try:
        try:
            recovery.read_all(recovered)
        except LogDamaged as error:
            damage = error
        segments = [
            f"{directory.name(known.header.number)}: {known.appends} appends, "
            f"{known.stop_off} of {known.header.bytes} bytes"
            for known in recovered.segments
        ]
        end = recovered.end
        last = (
            "empty" if end is None or not end.sequence else f"append {end.sequence}" + (" (clean)" if end.clean else "")
        )
        return Summary(segments, list(_groups(recovered)), last, damage)
    finally:
        recovered.close()


def _groups(recovered: Recovered) -> Iterator[str]:
    for group in range(wal.GROUPS_MAX):
        book = recovered.book.group(group)
        if not book.known:
            continue
        entries = f"entries {book.first} to {book.last}" if book.last >= book.first else "no entries"
        term, vote, _ = book.hard_state or (0, 0, 0)
        state = "removed" if book.removed else "quarantined" if book.quarantined else f"replica {book.replica}"
        yield (
            f"group {group}: {state}, {entries}, checkpoint covers {book.compact_index}, term {term}, vote {vote}, "
            f"configuration of entry {book.configs[-1].index if book.configs else 'none'}"
        )


def dump(directory: LogDirectory) -> Iterator[tuple[str, Segment, Append, list[Record]]]:
    """Every valid append of every readable segment, in file order, whether the chain holds or not."""
    for number in directory.numbers():
        view = directory.read(number)
        header = recovery.read_header(directory.name(number), view, number)
        off = wal.HEADER_BYTES
        while append := wal.append_find(view, off, header.segment_id):
            yield directory.name(number), header, append, wal.append_records(view, append)
            off = append.off + append.bytes


def cut(directory: LogDirectory, damage: LogDamaged) -> list[str]:
    """Give up the log from the damage on: what it was is kept in cut-* files. Returns what was done, in words."""
    done = []
    match = SEGMENT_NAME.fullmatch(os.path.basename(damage.file))
    assert match, "only damage of a segment can be cut"
    number = int(match[1])
    inside = damage.offset >= wal.HEADER_BYTES and os.path.exists(damage.file)
    for later in reversed(directory.numbers()):
        if later > number or (later == number and not inside):
            aside = os.path.join(directory.path, f"cut-{os.path.basename(directory.name(later))}")
            os.rename(directory.name(later), aside)
            done.append(f"{directory.name(later)} moved to {aside}")
    if inside:
        aside = os.path.join(directory.path, f"cut-{os.path.basename(damage.file)}")
        shutil.copyfile(damage.file, aside)
        _zero(damage.file, damage.offset)
        done.append(f"{damage.file} copied to {aside}, zeros from offset {damage.offset} on")
    fd = os.open(directory.path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return done


def _zero(path: str, offset: int) -> None:
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(offset)
        file.write(bytes(size - offset))
        file.flush()
        os.fsync(file.fileno())
