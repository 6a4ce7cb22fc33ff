"""The lateness timer and the histogram it fills, as C counts and as Python reads them."""

import select
import time

import pytest

from nodedb_node._native import ffi, lib
from nodedb_node.native.metrics import STEPS, bucket_of, bucket_start
from nodedb_node.native.timer import LatenessTimer

PERIOD_US = 1_000
STALL_S = 0.05
DEADLINE_S = 5


def counts(histogram: object) -> list[int]:
    return list(histogram.bucket)  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [*range(70), 127, 128, 159, 160, 8_191, 8_192, 10_239, 10_240, (1 << 33) - 1])
def test_c_and_python_agree_on_the_bucket(value: int) -> None:
    histogram = ffi.new("nd_hist *")
    lib.nd_hist_add(histogram, value)
    assert counts(histogram).index(1) == bucket_of(value)
    assert bucket_start(bucket_of(value)) <= value < bucket_start(bucket_of(value) + 1)


def test_a_buckets_bounds_are_at_most_a_quarter_apart() -> None:
    for bucket in range(STEPS, lib.ND_HIST_BUCKETS):
        assert bucket_start(bucket + 1) <= 1.25 * bucket_start(bucket)


def test_what_is_too_large_is_counted_in_the_last_bucket() -> None:
    histogram = ffi.new("nd_hist *")
    lib.nd_hist_add(histogram, (1 << 64) - 1)
    assert counts(histogram)[-1] == 1


def test_a_stall_counts_once_for_every_period_it_lasted() -> None:
    histogram = ffi.new("nd_hist *")
    timer = LatenessTimer(histogram)
    try:
        timer.start(PERIOD_US)
        begun = time.monotonic()
        while time.monotonic() < begun + STALL_S:
            pass  # the stall
        missed = timer.observe()
        stalled_us = (time.monotonic() - begun) * 1e6
    finally:
        timer.close()
    assert STALL_S * 1e6 / PERIOD_US - 1 <= missed <= stalled_us / PERIOD_US
    assert histogram.count == missed == sum(counts(histogram))
    longest = max(bucket for bucket, count in enumerate(counts(histogram)) if count)
    assert bucket_start(longest) <= stalled_us, "no lateness is longer than the stall"
    assert bucket_start(longest + 1) > (missed - 1) * PERIOD_US, "the first period's lateness covers the others"


def test_a_stopped_timer_is_silent_and_starts_again() -> None:
    histogram = ffi.new("nd_hist *")
    timer = LatenessTimer(histogram)
    try:
        assert timer.observe() == 0
        timer.start(PERIOD_US)
        assert select.select([timer.fd], [], [], DEADLINE_S)[0], "the timer never expired"
        timer.stop()
        assert timer.observe() == 0, "what expired before the stop is forgotten"
        timer.start(PERIOD_US)
        assert select.select([timer.fd], [], [], DEADLINE_S)[0]
        assert timer.observe() >= 1
    finally:
        timer.close()
