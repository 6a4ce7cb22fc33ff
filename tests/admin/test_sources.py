"""What is read from the machine: this process, a process that is gone, the split of groups."""

import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodedb_node.admin.sources import groups_by_worker, read_usage, stat_fields


def test_usage_of_a_live_process() -> None:
    found = read_usage(os.getpid())
    assert found is not None
    assert found.cpu_seconds > 0
    assert 1 << 20 < found.pss_bytes <= found.resident_bytes
    assert found.threads >= 1
    assert found.open_files >= 3


def test_a_name_with_blanks_and_brackets_does_not_shift_the_fields() -> None:
    with subprocess.Popen(["sleep", "60"], executable="/bin/sleep") as child:
        try:
            fields = stat_fields(child.pid)
            assert fields is not None
            assert int(fields[1]) == os.getpid()
        finally:
            child.kill()


def test_a_process_that_is_gone_is_none_and_no_error() -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
    assert stat_fields(child.pid) is None
    assert read_usage(child.pid) is None


@pytest.mark.parametrize(("groups", "workers", "counts"), [(8, 1, [8]), (8, 2, [4, 4]), (16, 3, [6, 5, 5])])
def test_groups_by_worker(groups: int, workers: int, counts: list[int]) -> None:
    assert groups_by_worker(groups, workers) == counts


@given(exponent=st.integers(3, 10), workers=st.integers(1, 256))
def test_every_group_has_one_worker(exponent: int, workers: int) -> None:
    assert sum(groups_by_worker(1 << exponent, workers)) == 1 << exponent
