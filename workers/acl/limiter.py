"""How often an address may fail to authenticate, and how often something may be logged: bounded token buckets.

Invariant: an address that failed `per_minute` times gets its next tries back one by one over the minute; the table
holds a bounded number of addresses and forgets the one that was quiet longest. IPv6 addresses count by /64, which is
what one customer has. Pure: `now_us` is an argument.
"""

import ipaddress
from collections import OrderedDict

ADDRESSES_MAX = 4_096
MINUTE_US = 60_000_000


class Bucket:
    """Up to `size` at once, refilled evenly over `period_us`."""

    __slots__ = ("left", "period_us", "size", "updated_us")

    def __init__(self, size: int, period_us: int, now_us: int) -> None:
        self.size, self.period_us, self.left, self.updated_us = size, period_us, float(size), now_us

    def look(self, now_us: int) -> float:
        """Tokens there are now."""
        gained = (now_us - self.updated_us) * self.size / self.period_us
        self.left, self.updated_us = min(float(self.size), self.left + max(0.0, gained)), now_us
        return self.left

    def take(self, now_us: int) -> bool:
        if self.look(now_us) < 1:
            return False
        self.left -= 1
        return True

    def wait_ms(self, now_us: int) -> int:
        """Until there is a token."""
        missing = 1 - self.look(now_us)
        return max(0, int(missing * self.period_us / self.size / 1000) + 1) if missing > 0 else 0


class FailureLimiter:
    """Failures by address."""

    def __init__(self, per_minute: int, addresses_max: int = ADDRESSES_MAX) -> None:
        self._per_minute, self._addresses_max = per_minute, addresses_max
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def wait_ms(self, address: str, now_us: int) -> int:
        """0 = it may try; else when it may again."""
        bucket = self._buckets.get(_network(address))
        return bucket.wait_ms(now_us) if bucket is not None else 0

    def failed(self, address: str, now_us: int) -> None:
        network = _network(address)
        bucket = self._buckets.get(network)
        if bucket is None:
            bucket = self._buckets[network] = Bucket(self._per_minute, MINUTE_US, now_us)
        self._buckets.move_to_end(network)
        bucket.take(now_us)
        if len(self._buckets) > self._addresses_max:
            self._buckets.popitem(last=False)

    def __len__(self) -> int:
        return len(self._buckets)


def _network(address: str) -> str:
    if ":" not in address:
        return address
    parsed = ipaddress.IPv6Address(address.partition("%")[0])
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
