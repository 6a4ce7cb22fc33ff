"""A disk in memory for the log: real bytes (the C encoder's), virtual completion, power cuts by sector.

Invariant: what `sync` has not covered may be lost sector by sector; `crash(keep)` decides which of those stay.
"""

from collections.abc import Callable
from typing import Any

from nodedb_node.native import wal
from nodedb_node.native.wal import Segment
from nodedb_node.native.walio import IoConfig, IoStats

SECTOR = 512


class SimSegments:
    """storage.directory.Segments in dictionaries: `files` is the page cache, `durable` what the disk holds."""

    path = "sim"

    def __init__(self, durable: dict[int, bytes] | None = None) -> None:
        self.durable: dict[int, bytearray] = {n: bytearray(data) for n, data in (durable or {}).items()}
        self.files: dict[int, bytearray] = {n: bytearray(data) for n, data in self.durable.items()}
        self.dirty: tuple[int, int, bytes] | None = None  # number, offset, bytes of the append in flight
        self.ids = 1000

    def numbers(self) -> list[int]:
        return sorted(self.files)

    def name(self, number: int) -> str:
        return f"sim/wal-{number:016d}"

    def read(self, number: int) -> memoryview:
        return memoryview(self.files[number])

    def remove(self, number: int) -> None:
        assert number == max(self.files)
        del self.files[number], self.durable[number]

    def release(self) -> None:
        pass

    def close(self) -> None:
        pass

    def open_io(self, config: IoConfig, sync_us: Any) -> "SimIo":
        return SimIo(self, config)

    def make(self, config: IoConfig, number: int, size: int) -> Segment:
        """A synced segment of zeros with its header."""
        self.ids += 1
        segment = Segment(config.log_id, number, self.ids, size)
        data = bytearray(size)
        data[: wal.HEADER_BYTES] = wal.segment_encode(segment)
        self.files[number], self.durable[number] = data, bytearray(data)
        return segment

    def write(self, number: int, off: int, data: bytes) -> None:
        self.files[number][off : off + len(data)] = data
        self.dirty = (number, off, data)

    def sync(self) -> None:
        if self.dirty:
            number, off, data = self.dirty
            self.durable[number][off : off + len(data)] = data
            self.dirty = None

    def crash(self, keep: Callable[[int], bool]) -> "SimSegments":
        """Power is cut: of the append in flight, sector i stays if keep(i)."""
        after = SimSegments({n: bytes(data) for n, data in self.durable.items()})
        if self.dirty:
            number, off, data = self.dirty
            for i in range(0, len(data), SECTOR):
                if keep(i // SECTOR):
                    after.durable[number][off + i : off + i + SECTOR] = data[i : i + SECTOR]
                    after.files[number][off + i : off + i + SECTOR] = data[i : i + SECTOR]
        return after


class SimIo:
    """native.walio.Io whose appends become durable when the test says `complete`, or at the next wait."""

    fd = -1

    def __init__(self, disk: SimSegments, config: IoConfig) -> None:
        self.disk, self.config = disk, config
        self.current = disk.make(config, config.next_segment, config.first_segment_bytes)
        self.used = wal.HEADER_BYTES
        self.sequence, self.prev_crc, self.flags = config.next_sequence, config.prev_crc, config.flags_first
        self.oldest = config.oldest_segment
        self.flight = self.off = 0
        self.durable = False
        self.appends = self.bytes = 0
        self.full = False

    def append(self, records: Any, n: int, reserve: bool) -> int:
        assert not self.flight
        if self.full and not reserve:
            return 0
        rows = [wal.record_of(records[i]) for i in range(n)]
        data, crc = wal.append_encode(
            rows, self.current.segment_id, self.sequence, self.prev_crc, self.used, self.flags
        )
        if len(data) > self.current.bytes - self.used:
            self.current = self.disk.make(self.config, self.current.number + 1, self.config.segment_bytes)
            self.used = wal.HEADER_BYTES
            data, crc = wal.append_encode(
                rows, self.current.segment_id, self.sequence, self.prev_crc, self.used, self.flags
            )
        self.disk.write(self.current.number, self.used, data)
        self.off = self.used
        self.used += len(data)
        self.flight, self.durable = self.sequence, False
        self.sequence, self.prev_crc, self.flags = self.sequence + 1, crc, 0
        self.bytes += len(data)
        return self.flight

    def complete(self) -> None:
        self.disk.sync()
        self.durable = True

    def reap(self) -> int:
        if not self.flight or not self.durable:
            return 0
        done, self.flight = self.flight, 0
        self.appends += 1
        return done

    def wait(self, timeout_ms: int) -> int:
        if self.flight:
            self.complete()
        return self.reap()

    def append_bytes_max(self) -> int:
        return min(wal.APPEND_BYTES_MAX, self.config.segment_bytes - wal.HEADER_BYTES)

    def segment(self) -> int:
        return self.current.number

    def append_off(self) -> int:
        return self.off

    def inflight_us(self) -> int:
        return 0

    def nospace(self) -> bool:
        return self.full

    def drop_before(self, number: int) -> None:
        for old in range(self.oldest, number):
            self.disk.files.pop(old, None)
            self.disk.durable.pop(old, None)
        self.oldest = max(self.oldest, number)

    def stats(self) -> IoStats:
        number = self.current.number
        files = (number, self.oldest, number - self.oldest + 1, self.current.bytes, 0, 0)
        return IoStats(self.appends, self.bytes, *files, "thread", False, 0, self.full)

    def close(self) -> None:
        pass
