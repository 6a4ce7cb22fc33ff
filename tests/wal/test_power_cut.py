"""Power cuts on the simulated disk: at every sector of an append, during recovery, over many lives, against a model."""

import random
from typing import Any

from nodedb_node.multiraft.log import RaftLog
from nodedb_node.multiraft.start import LogConfig, open_log
from nodedb_node.native import wal
from nodedb_node.native.wal import Record
from tests.conformance.test_wal import Entries, collect, held
from tests.conformance.wal_disk import SECTOR, SimSegments
from tests.seeds import run_seed

CONFIG = LogConfig("thread", True, 64 * 1024, 64 * 1024, floor_bytes=0)


def opened(disk: SimSegments, applied: int = 0) -> tuple[RaftLog, list[tuple[int, bytes]]]:
    """A log, and (index, payload) of the commands that its start applied."""
    got: Entries = {0: []}
    return open_log(disk, CONFIG, held([0], {0: applied}), collect(got), lambda: 1), got[0]


def submit(log: RaftLog, payloads: list[bytes]) -> Any:
    array, keep = wal.records_array([Record(wal.ENTRY, 0, kind=wal.DATA, data=data) for data in payloads])
    assert log.propose(array, len(payloads), False)
    return array, keep


def finish(log: RaftLog) -> int:
    log._io.complete()  # type: ignore[attr-defined]
    rows, n = log.reap()
    return int(rows[n - 1].last)


def test_every_sector_subset_of_the_last_append_leaves_all_of_it_or_nothing() -> None:
    log, _ = opened(disk := SimSegments())
    keep = [submit(log, [b"one" * 100, b"two"])]
    finish(log)
    keep.append(submit(log, [b"a" * 1500, b"b" * 2500]))
    assert disk.dirty is not None
    sectors = len(disk.dirty[2]) // SECTOR
    assert sectors == 9
    for subset in range(1 << sectors):
        after = disk.crash(lambda i, subset=subset: bool(subset >> i & 1))  # type: ignore[misc]
        _, got = opened(after)
        whole = subset == (1 << sectors) - 1
        assert [data for _, data in got] == [b"one" * 100, b"two"] + ([b"a" * 1500, b"b" * 2500] if whole else [])


def test_cuts_at_random_under_load_lose_nothing_acknowledged() -> None:
    """Life after life on one disk: appends, compaction, kills and cuts at any moment and at the start."""
    rng = random.Random(run_seed())
    disk = SimSegments()
    acknowledged: list[tuple[int, bytes]] = []  # (index, payload)
    maybe: list[tuple[int, bytes]] = []  # the append in flight at the cut
    applied = term = 0
    for life in range(150):
        log, got = opened(disk, applied)
        found = [row for row in acknowledged if row[0] <= applied] + got
        assert found in (acknowledged, acknowledged + maybe), f"life {life}"
        acknowledged, maybe = found, []
        assert log.last(0)[1] > term, "each life leads in a term of its own"
        last, term = log.last(0)
        if rng.random() < 0.3:  # at once again: the recovered append must be on the disk, not in the page cache
            disk = disk.crash(lambda i: rng.random() < 0.5)
            continue
        for turn in range(rng.randrange(1, 12)):
            payloads = [b"%d.%d.%d " % (life, turn, i) * rng.randrange(1, 700) for i in range(rng.randrange(1, 4))]
            kept = submit(log, payloads)
            rows = list(enumerate(payloads, last + 1))
            if rng.random() < 0.1:
                maybe = rows
                break
            last = finish(log)
            assert last == rows[-1][0]
            acknowledged += rows
            if rng.random() < 0.2:
                applied = rng.randrange(applied, last + 1)
                log.compact({0: applied})
            del kept
        if not maybe and rng.random() < 0.3:
            log.close(mark=True)
        if rng.random() < 0.3:
            continue  # only the process died: the page cache still has what the disk may lack
        share = rng.choice([0.0, 0.5, 0.9, 1.0])
        disk = disk.crash(lambda i, share=share: rng.random() < share)  # type: ignore[misc]
    assert len(acknowledged) > 300
    assert min(disk.numbers()) > 1, "compaction never dropped a segment"
