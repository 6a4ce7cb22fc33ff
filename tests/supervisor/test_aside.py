"""When a pinned worker steps aside: the decision over made-up readings of /proc, and the parsing of real ones."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodedb_node.supervisor.aside import HOLD_US, HOME_US, Aside, idle_ticks, waited_ns

LOOK_US = 100_000
TICKS = 100


class Machine:
    """Cores with a share of idle time each, and how much of its time the worker waits on the core it is on."""

    def __init__(self, cores: int) -> None:
        self.now_us = 1
        self.waited_ns = 0
        self.idle = [0.0] * cores
        self.stats_read = 0

    def look(self, aside: Aside, waiting: float, free: dict[int, float]) -> bool:
        self.now_us += LOOK_US
        self.waited_ns += int(waiting * LOOK_US * 1000)
        for core, share in free.items():
            self.idle[core] += share * LOOK_US / 1e6 * TICKS
        return aside.look(self.now_us, f"123 {self.waited_ns} 9\n", self.stat)

    def stat(self) -> str:
        self.stats_read += 1
        cores = "".join(f"cpu{core} 9 0 9 {int(idle)} 0 0 0 0 0 0\n" for core, idle in enumerate(self.idle))
        return f"cpu  9 0 9 9 9 0 0 0 0 0\n{cores}intr 1 2 3\nctxt 5\n"


def crowded(here: Machine, aside: Aside, free: dict[int, float], looks: int = 2) -> list[int]:
    """Cores after each look while the worker waits a third of its time."""
    return [aside.core for _ in range(looks) if here.look(aside, 0.33, free) or True]


def test_a_crowded_worker_goes_to_the_idlest_spare_core() -> None:
    here, aside = Machine(4), Aside(1, [0, 2, 3], TICKS)
    assert crowded(here, aside, {0: 0.7, 2: 0.9, 3: 0.1}) == [1, 2]


def test_one_that_has_its_core_stays_and_reads_nothing_of_the_others() -> None:
    here, aside = Machine(2), Aside(1, [0], TICKS)
    for _ in range(20):
        assert not here.look(aside, 0.05, {0: 1.0})
    assert here.stats_read == 0


def test_busy_cores_are_no_better() -> None:
    here, aside = Machine(3), Aside(1, [0, 2], TICKS)
    assert set(crowded(here, aside, {0: 0.5, 2: 0.2}, 20)) == {1}


def test_another_workers_core_is_never_taken() -> None:
    here, aside = Machine(4), Aside(1, [0], TICKS)
    assert set(crowded(here, aside, {2: 1.0, 3: 1.0}, 20)) == {1}


def test_two_moves_are_held_apart() -> None:
    here, aside = Machine(2), Aside(1, [0], TICKS)
    places = crowded(here, aside, {0: 1.0, 1: 1.0}, 40)  # whoever crowds follows the worker at once
    moves = [at for at in range(1, len(places)) if places[at] != places[at - 1]]
    assert moves
    assert all((later - at) * LOOK_US >= HOLD_US for at, later in pairwise(moves))


def test_it_goes_home_when_its_core_has_time_again() -> None:
    here, aside = Machine(2), Aside(1, [0], TICKS)
    assert crowded(here, aside, {0: 1.0}) == [1, 0]
    for _ in range(30):
        assert not here.look(aside, 0.0, {1: 0.1})  # whoever is there still takes it all
    for _ in range(HOME_US // LOOK_US - 1):
        assert not here.look(aside, 0.0, {1: 0.4})
    assert not here.look(aside, 0.0, {1: 0.1})  # not all the time: the count begins anew
    looks = 0
    while aside.core == 0 and looks < 100:
        here.look(aside, 0.0, {1: 0.4})
        looks += 1
    assert looks * LOOK_US >= HOME_US
    assert aside.core == 1


def test_a_kernel_without_figures_moves_nobody() -> None:
    aside = Aside(1, [0], TICKS)
    for now in range(LOOK_US, 20 * LOOK_US, LOOK_US):
        assert not aside.look(now, "", lambda: "")
    for now in range(20 * LOOK_US, 40 * LOOK_US, LOOK_US):
        assert not aside.look(now, f"1 {now * 900} 1", lambda: "")


@given(st.lists(st.tuples(st.floats(0, 1), st.lists(st.floats(0, 1), min_size=4, max_size=4)), max_size=60))
def test_it_is_always_at_home_or_on_a_spare(steps: list[tuple[float, list[float]]]) -> None:
    here, aside = Machine(4), Aside(1, [0, 3], TICKS)
    for waiting, shares in steps:
        before = aside.core
        assert here.look(aside, waiting, dict(enumerate(shares))) == (aside.core != before)
        assert aside.core in {0, 1, 3}


def test_this_machines_readings() -> None:
    try:
        schedstat = Path("/proc/self/schedstat").read_text()
    except OSError:
        pytest.skip("this kernel does not count waiting")
    assert waited_ns(schedstat) >= 0
    assert 0 in idle_ticks(Path("/proc/stat").read_text())
