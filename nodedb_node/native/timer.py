"""csrc/timer.h: a periodic timer that counts how late the loop looked at it. World file: it owns a descriptor."""

import os
from typing import Any

from nodedb_node._native import lib


class LatenessTimer:
    """Owner of a timerfd, stopped at first; watch `fd` and call observe() when it is readable."""

    def __init__(self, late_us: Any) -> None:
        """late_us: an nd_hist *, borrowed; gets the lateness of each expiration."""
        self.fd = int(lib.nd_timer_open())
        if self.fd < 0:
            raise OSError(-self.fd, f"timerfd: {os.strerror(-self.fd)}")
        self._late_us = late_us

    def start(self, period_us: int) -> None:
        self._set(period_us)

    def stop(self) -> None:
        self._set(0)

    def observe(self) -> int:
        """How many periods ended since the last call."""
        return int(lib.nd_timer_observe(self.fd, self._late_us))

    def close(self) -> None:
        os.close(self.fd)

    def _set(self, period_us: int) -> None:
        code = int(lib.nd_timer_set(self.fd, period_us))
        assert code == 0, f"timerfd refuses a period of {period_us} µs: {os.strerror(-code)}"
