"""The simulated disk of one process: the log in real bytes (the C encoder's, read back by the real recovery), and the
store's checkpoints as whole objects.

What a sync has covered is safe from a power cut; of the append in flight each sector of 512 bytes is kept or not. A
killed process leaves all it wrote to the page cache. Damage after the fact (a misdirected write, rot) is done to an
append that a later one follows, as the last one's loss could not be told from a torn tail. Invariant: what is read
after a crash is only what these rules let survive. Time is the caller's: `begin` writes, `complete` is the end of the
sync.
"""

from collections.abc import Callable
from typing import Any

from nodedb_node.native import wal
from nodedb_node.native.wal import Book, Record, Segment
from nodedb_node.storage import recovery
from nodedb_node.storage.recovery import Recovered
from nodedb_node.storage.segments import SegmentBook

SECTOR = 512
SEGMENT_BYTES = 128 * 1024
LOG_ID = 7


class SimDisk:
    """storage.directory.Segments over bytearrays, and what `crash` leaves of them."""

    path = "sim"

    def __init__(self) -> None:
        self.files: dict[int, bytearray] = {}
        self.dirty: list[tuple[int, int, int]] = []  # (segment, offset, length) in the page cache only
        self.appends: list[tuple[int, int, int]] = []  # (segment, offset, length) of all, to aim damage at
        self.checkpoints: dict[Any, Any] = {}  # durable: what the store wrote in one synced transaction
        self.partials: dict[int, Any] = {}  # by group, snapshots that arrive (transfers.Partial)
        self.ids = 0

    # ---- what recovery reads ----

    def numbers(self) -> list[int]:
        return sorted(self.files)

    def name(self, number: int) -> str:
        return f"sim/wal-{number:016d}"

    def read(self, number: int) -> memoryview:
        return memoryview(self.files[number])

    def remove(self, number: int) -> None:
        del self.files[number]

    def release(self) -> None:
        pass

    def close(self) -> None:
        pass

    # ---- what the writer does ----

    def make(self, number: int) -> Segment:
        """A synced segment of zeros with its header."""
        self.ids += 1
        segment = Segment(LOG_ID, number, self.ids << 8 | number & 0xFF, SEGMENT_BYTES)
        data = bytearray(SEGMENT_BYTES)
        data[: wal.HEADER_BYTES] = wal.segment_encode(segment)
        self.files[number] = data
        return segment

    def write(self, number: int, off: int, data: bytes) -> None:
        self.files[number][off : off + len(data)] = data
        self.dirty.append((number, off, len(data)))
        self.appends.append((number, off, len(data)))

    def sync(self, number: int) -> None:
        self.dirty = [row for row in self.dirty if row[0] != number]

    def drop_before(self, number: int) -> None:
        for old in [n for n in self.files if n < number]:
            del self.files[old]
        self.dirty = [row for row in self.dirty if row[0] >= number]
        self.appends = [row for row in self.appends if row[0] >= number]

    # ---- faults ----

    def cut_power(self, keep: Callable[[], bool]) -> int:
        """Of what is in the page cache only, each sector stays if keep(); how many were lost."""
        lost = 0
        for partial in self.partials.values():
            partial.cut_power(keep)
        for number, off, length in self.dirty:
            for at in range(off, off + length, SECTOR):
                if not keep():
                    self.files[number][at : at + SECTOR] = bytes(SECTOR)
                    lost += 1
        self.dirty = []
        return lost

    def unwrite_last(self) -> None:
        """The last append never reached even the page cache."""
        number, off, length = self.dirty.pop()
        assert self.appends.pop() == (number, off, length)
        self.files[number][off : off + length] = bytes(length)

    def damage(self, pick: Callable[[int], int], misdirect: bool) -> bool:
        """Harm one durable append that is not the last: overwrite it with another's bytes (a misdirected write), or
        flip a bit. False: there is none."""
        candidates = [row for row in self.appends[:-1] if row not in self.dirty and row[0] in self.files]
        if not candidates:
            return False
        number, off, length = candidates[pick(len(candidates))]
        data = self.files[number]
        if misdirect:
            other, at, size = candidates[pick(len(candidates))]
            size = min(size, length)
            if (other, at) == (number, off):
                data[off : off + length] = bytes(length)
            else:
                data[off : off + size] = self.files[other][at : at + size]
        else:
            data[off + pick(length)] ^= 1 << pick(8)
        return True

    def cut_damage(self, file: str, offset: int) -> None:
        """Take away the damaged append and all after it, as the repair tool does."""
        number = int(file.rpartition("-")[2])
        for later in [n for n in self.files if n > number]:
            del self.files[later]
        data = self.files[number]
        if offset < wal.HEADER_BYTES:
            del self.files[number]
        else:
            data[offset:] = bytes(len(data) - offset)
        self.appends = [row for row in self.appends if row[0] < number or (row[0] == number and row[1] < offset)]
        self.dirty = []

    def recover(self) -> Recovered:
        """Real recovery on these bytes; LogDamaged as in production."""
        return recovery.recover(self)


class SimLog:
    """The writer: one append in flight, segments that fill and die, and the live book of all that is in them. `full`
    refuses appends that are no reserve."""

    def __init__(self, disk: SimDisk, recovered: Recovered | None) -> None:
        """Continues behind what was recovered, whose book it takes; `again` has to be written first if not empty."""
        self.disk = disk
        self.segments = SegmentBook()
        self.last = wal.group_array()
        self.full = False
        rows = recovered.segments if recovered else []
        for known in rows:
            self.segments.close_segment(known.header.number, known.last, known.header.bytes)
            for group, index in known.last.items():
                self.last[group] = max(index, self.last[group])
        end = recovered.end if recovered else None
        self.again = recovered.again() if recovered else []
        self.book = recovered.book if recovered else Book()
        self.flags = wal.FLAG_AGAIN if self.again else 0
        self.sequence = (recovered.sequence if recovered else 0) + (0 if self.again else 1)
        self.prev_crc = 0 if end is None else end.prev_crc if self.again else end.crc
        self.segment = disk.make(rows[-1].header.number + 1 if rows else 1)
        self.used = wal.HEADER_BYTES
        self.busy = False
        self.dead_before = 0

    def close(self) -> None:
        self.book.close()

    def write_now(self, records: list[Record], known: bool = False) -> None:
        """At a start: durable before anything else happens. known: the book has them already."""
        if records:
            self.begin(records, known)
            self.complete()

    def begin(self, records: list[Record], known: bool = False) -> int:
        """Write one append to the page cache; its bytes. It is durable when `complete` was called."""
        assert not self.busy and records
        array, keep = wal.records_array(records)
        data, crc = self._encode(array, len(records))
        if len(data) > self.segment.bytes - self.used:
            self._next_segment()
            data, crc = self._encode(array, len(records))
        self.disk.write(self.segment.number, self.used, data)
        if not known:
            self.book.write(array, len(records), self.segment.number, self.used, self.last)
        del keep
        self.used += len(data)
        self.sequence, self.prev_crc, self.flags = self.sequence + 1, crc, 0
        self.busy = True
        return len(data)

    def complete(self) -> None:
        assert self.busy
        self.busy = False
        self.disk.sync(self.segment.number)
        if self.dead_before:
            self.segments.forget_before(self.dead_before)
            self.disk.drop_before(self.dead_before)
            self.dead_before = 0

    def dying(self, covered: dict[int, int]) -> bool:
        """Would segments die if everything that must stay were written anew now? covered: by group, the index that a
        durable checkpoint and a compaction mark reach."""
        dead_before = self.segments.dead_before(covered, self.segment.number)
        if dead_before <= min(self.disk.files):
            return False
        self.dead_before = dead_before
        return True

    def _encode(self, array: Any, n: int) -> tuple[bytes, int]:
        at = (self.segment.segment_id, self.sequence, self.prev_crc, self.used, self.flags)
        return wal.array_encode(array, n, *at)

    def _next_segment(self) -> None:
        self.segments.close_segment(self.segment.number, wal.by_group(self.last), self.segment.bytes)
        self.segment = self.disk.make(self.segment.number + 1)
        self.used = wal.HEADER_BYTES
