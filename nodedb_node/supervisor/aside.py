"""When a pinned worker steps aside: the core it should run on next, from what the kernel says of its waiting.

A program that the pin plan does not know of (a client, a backup) may settle on a worker's core. The kernel then lets
the two take turns for seconds beside a core that does nothing: the pinned one may not leave, and the other is not
moved while either sleeps now and then. Invariant: a worker moves only to a core that is no other worker's and that was
idle for most of the last look, at most once in HOLD_US, and goes home once its own core has had idle time for HOME_US.
It looks at cores only while it is kept waiting or away. Pure: it decides from the texts of /proc and moves nothing.
"""

from collections.abc import Callable, Mapping, Sequence

WAITED_SHARE = 0.25  # of the time since the last look: runnable, while something else ran on the core
IDLE_SHARE = 0.6  # of a core that is worth moving to
HOME_SHARE = 0.25  # of the own core, which is worth more: interrupts and background threads know it
HOLD_US = 300_000
HOME_US = 300_000


def waited_ns(schedstat: str) -> int:
    """From /proc/self/schedstat (on a core, runnable without one, slices; of the first thread): the second, in ns."""
    fields = schedstat.split()
    return int(fields[1]) if len(fields) > 1 else 0  # empty where the kernel does not count


def idle_ticks(stat: str) -> dict[int, int]:
    """From /proc/stat: by core, ticks without work, those waiting for a disk included."""
    idle: dict[int, int] = {}
    for line in stat.splitlines():
        name, *fields = line.split(maxsplit=6)
        if name.startswith("cpu") and name[3:].isdecimal() and len(fields) > 4:
            idle[int(name[3:])] = int(fields[3]) + int(fields[4])
    return idle


class Aside:
    """One worker's place: `core` is where it runs. Without spares it never moves."""

    def __init__(self, home: int, spares: Sequence[int], ticks_per_second: int) -> None:
        self.home = self.core = home
        self._places = [home, *spares]
        self._tick_us = 1e6 / ticks_per_second
        self._looked_us = self._home_idle_us = self._waited_ns = 0
        self._moved_us = -HOLD_US
        self._idle: Mapping[int, int] = {}

    def look(self, now_us: int, schedstat: str, stat: Callable[[], str]) -> bool:
        """Whether `core` has changed. `stat` reads /proc/stat, which is asked only when it matters."""
        elapsed_us, self._looked_us = now_us - self._looked_us, now_us
        waited, self._waited_ns = waited_ns(schedstat) - self._waited_ns, waited_ns(schedstat)
        crowded = 0 < elapsed_us * WAITED_SHARE < waited / 1000
        if not crowded and self.core == self.home:
            self._idle = {}
            return False
        before, self._idle = self._idle, idle_ticks(stat())
        if not before or elapsed_us <= 0:
            return False
        idle_us = {core: (ticks - before.get(core, ticks)) * self._tick_us for core, ticks in self._idle.items()}
        free = [core for core in self._places if core != self.core and idle_us.get(core, 0) >= elapsed_us * IDLE_SHARE]
        has_time = self.core != self.home and idle_us.get(self.home, 0) >= elapsed_us * HOME_SHARE
        self._home_idle_us = self._home_idle_us + elapsed_us if has_time else 0
        if self._home_idle_us >= HOME_US:
            return self._move(now_us, self.home)
        if crowded and free and now_us - self._moved_us >= HOLD_US:
            return self._move(now_us, max(free, key=lambda core: idle_us[core]))
        return False

    def _move(self, now_us: int, core: int) -> bool:
        self.core, self._moved_us, self._home_idle_us = core, now_us, 0
        self._idle = {}
        return True
