"""What is read from the machine: this process, a process that is gone."""

import os
import subprocess

from nodedb_node.admin.sources import read_usage, stat_fields


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
