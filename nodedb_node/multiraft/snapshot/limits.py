"""Bounds of snapshot transfers, with their relations asserted, and the token bucket that slows senders down."""

from typing import NamedTuple

KIB = 1024
SECOND_US = 1_000_000


class SnapshotLimits(NamedTuple):
    """Units are in the names."""

    chunk_bytes: int = 256 * KIB  # what a sender cuts; a frame of the bulk lane holds one
    chunk_bytes_max: int = 1024 * KIB  # what a receiver takes
    window_chunks: int = 8  # in flight per transfer: 2 MiB unacknowledged
    size_bytes_max: int = 1 << 40
    outgoing_max: int = 2  # transfers at a time; others wait their turn
    per_peer_max: int = 1  # of these to one peer
    waiting_max: int = 1024
    incoming_max: int = 4
    rate_bytes_per_s: int = 64 << 20  # of all outgoing transfers together
    stall_us: int = 2 * SECOND_US  # without progress for so long: offered again
    offers_max: int = 10  # without progress in between
    idle_us: int = 300 * SECOND_US  # a partial snapshot nobody continues is discarded
    corrupt_max: int = 3  # damaged copies of chunks in one transfer
    failures_max: int = 2
    quarantine_us: int = 60 * SECOND_US
    quarantine_rows_max: int = 256
    retry_us: int = SECOND_US
    kept_us: int = 30 * SECOND_US  # a cut that nobody needs at the moment stays so long for the next who does

    @property
    def patience_us(self) -> int:
        """Of a sender: what was not touched for longer is nobody's."""
        return self.stall_us * self.offers_max

    def check(self) -> None:
        assert 0 < self.chunk_bytes <= self.chunk_bytes_max
        assert self.window_chunks > 0 and 0 < self.per_peer_max <= self.outgoing_max
        assert self.rate_bytes_per_s >= self.chunk_bytes, "a chunk must fit in a second's tokens"
        assert self.idle_us > self.patience_us, "a partial outlives its sender's patience"


class Throttle:
    """Token bucket in bytes: at most `rate` per second over time, bursts of up to a second's worth. Pure integers."""

    __slots__ = ("_rate", "_tokens", "_updated_us")

    def __init__(self, rate_bytes_per_s: int, now_us: int) -> None:
        self._rate = rate_bytes_per_s
        self._tokens = rate_bytes_per_s * SECOND_US  # in bytes × microseconds: no remainder is lost
        self._updated_us = now_us

    def take(self, now_us: int, size_bytes: int) -> bool:
        """Take tokens for size_bytes, or none."""
        elapsed_us = max(0, now_us - self._updated_us)
        self._updated_us = max(now_us, self._updated_us)
        self._tokens = min(self._rate * SECOND_US, self._tokens + elapsed_us * self._rate)
        if self._tokens < size_bytes * SECOND_US:
            return False
        self._tokens -= size_bytes * SECOND_US
        return True

    def ready_us(self, size_bytes: int) -> int:
        """When size_bytes will be there; valid after a take that failed."""
        missing = size_bytes * SECOND_US - self._tokens
        return self._updated_us + max(0, -(-missing // self._rate))
