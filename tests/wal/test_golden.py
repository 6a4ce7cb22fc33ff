"""The bytes of the log, frozen: a segment with every kind of record, as version 1 writes it.

When this fails, the format changed: raise ND_WAL_VERSION, add a file for the new version, and keep reading the old one.
"""

from pathlib import Path

from nodedb_node.native import wal
from nodedb_node.native.wal import Book, ConfigRow, Record, Segment

GOLDEN = Path(__file__).parent.parent / "golden" / "wal-v1-segment.bin"
SEGMENT = Segment(log_id=0x0102030405060708, number=42, segment_id=0x1112131415161718, bytes=16384)
APPENDS = [
    [
        Record(wal.REPLICA, 3, 0, 6, b"\x01"),
        Record(wal.HARD_STATE, 3, 7, 0, (5).to_bytes(8, "little") + (4).to_bytes(8, "little")),
        Record(wal.CONFIG, 3, 0, 0, b"members"),
    ],
    [
        Record(wal.ENTRY, 3, 7, 1, b"one", wal.DATA),
        Record(wal.ENTRY, 4, 7, 9, bytes(range(256)) * 3, wal.MEMBERS),
        Record(wal.ENTRY, 3, 7, 2, kind=wal.NOOP),
    ],
    [Record(wal.TRUNCATE, 3, 0, 3), Record(wal.COMPACT, 4, 7, 8), Record(wal.QUARANTINE, 4, 0, 0, b"\x01")],
    [Record(wal.ENTRY, 3, 7, 1, b"one", wal.DATA).rewritten(), Record(wal.PROBE)],
    [Record(wal.MARK)],
]


def build() -> bytes:
    data = bytearray(wal.segment_encode(SEGMENT))
    crc = 0
    for i, records in enumerate(APPENDS):
        append, crc = wal.append_encode(records, SEGMENT.segment_id, 100 + i, crc, len(data))
        data += append
    return bytes(data + bytes(SEGMENT.bytes - len(data)))


def test_encoding_gives_the_frozen_bytes() -> None:
    assert build() == GOLDEN.read_bytes()


def test_the_frozen_bytes_read_back() -> None:
    data = GOLDEN.read_bytes()
    assert wal.segment_read(data) == SEGMENT
    off = wal.HEADER_BYTES
    for i, records in enumerate(APPENDS):
        append = wal.append_check(data, off, SEGMENT.segment_id)
        assert append is not None
        assert append.sequence == 100 + i
        assert wal.append_records(data, append) == records
        off += append.bytes
    with Book() as book:
        code, end, last = book.take(SEGMENT, data)
        assert (code, end.clean, end.sequence) == (0, True, 104)
        assert (last[3], last[4]) == (2, 9)
        three, four = book.group(3), book.group(4)
        assert (three.first, three.last, three.last_term, three.hard_state) == (1, 2, 7, (7, 5, 4))
        assert (three.replica, three.removed, three.configs) == (6, False, [ConfigRow(0, 0, b"members")])
        assert [row.index for row in four.configs] == [9]
        assert (four.first, four.last, four.compact_index, four.quarantined) == (9, 9, 8, True)
