"""Data larger than the memory that a node may use for rows: everything is there, from disk, also after a restart."""

from pathlib import Path

import pytest

from tests.process.node import Node, wait_for
from tests.process.test_admin import total, values

pytestmark = pytest.mark.process

MIB = 1 << 20
SETTINGS = {"store.memory_bytes_max": 16 * MIB, "store.dirty_bytes_max": 4 * MIB}
ROWS = 48_000
ROW_BYTES = 1_000  # 48 MB in all


def value(number: int) -> bytes:
    return b"%d:" % number * (ROW_BYTES // len(b"%d:" % number))


def test_more_than_fits_in_memory_is_served_whole(tmp_path: Path) -> None:
    with Node(tmp_path, SETTINGS) as one:
        client = one.start().client()
        for first in range(0, ROWS, 500):
            pipe = client.pipeline(transaction=False)
            for number in range(first, first + 500):
                pipe.set(f"key:{number}", value(number))
            pipe.execute()
        wait_for(lambda: total(values(one), "nodedb_store_resident_rows") < ROWS * 16 // 48, "rows to leave memory", 30)
        assert total(values(one), "nodedb_store_memory_bytes") < 1.25 * 16 * MIB
        check(one)
        assert total(values(one), "nodedb_store_cold_reads_total") > 0
        one.kill_all()
        one.start()
        check(one)


def check(one: Node) -> None:
    client = one.client()
    assert client.dbsize() == ROWS
    for first in range(0, ROWS, 500):
        pipe = client.pipeline(transaction=False)
        for number in range(first, first + 500):
            pipe.get(f"key:{number}")
        assert pipe.execute() == [value(number) for number in range(first, first + 500)]
