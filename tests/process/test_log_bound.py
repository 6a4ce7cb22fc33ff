"""A node that crashes again and again, or writes the same few rows for ever, keeps a bounded log."""

from pathlib import Path

import pytest

from tests.process.node import Node, node, wait_for

pytestmark = pytest.mark.process

MIB = 1 << 20
SEGMENT = {"wal.segment_bytes": 20 * MIB}


def log_bytes(one: Node) -> int:
    return sum(file.stat().st_size for file in one.data_dir.glob("layout-*/worker-*/wal/wal-*"))


def overwrite(one: Node, mib: int) -> None:
    """The same few rows again and again: much log, few changed bytes."""
    with one.client() as client:
        for number in range(mib):
            client.set(f"key:{number % 3}", b"%06d" % number + b"v" * MIB)


def test_a_crash_loop_keeps_no_log_segment_per_crash(tmp_path: Path) -> None:
    """Each life fills its first, small segment and begins another: 24 MiB that stay until a checkpoint."""
    with Node(tmp_path, SEGMENT) as one:
        for life in range(4):
            one.start()
            one.wait_log("msg=checkpoint ") if life else None
            # The current segment, the next one made ready.
            wait_for(lambda: log_bytes(one) <= 24 * MIB, "closed segments to die")
            overwrite(one, 5)
            one.kill_all()
        one.start()
        with one.client() as client:
            assert client.get("key:1") == b"000004" + b"v" * MIB
        assert len(list(one.data_dir.glob("layout-*/worker-*/wal/wal-*"))) <= 5


def test_overwriting_few_rows_checkpoints_by_the_bytes_of_the_log(tmp_path: Path) -> None:
    with node(tmp_path, SEGMENT | {"store.log_bytes_max": 30 * MIB}) as one:
        overwrite(one, 120)
        one.wait_log("msg=checkpoint ")
        wait_for(lambda: log_bytes(one) <= 80 * MIB, "closed segments to die")
