"""When a child is started again, killed or given up."""

from nodedb_node.config import SuperviseSection
from nodedb_node.supervisor.watch import Watch

LIMITS = SuperviseSection(backoff_first_ms=100, backoff_max_ms=300, stable_ms=1000, stall_ms=2000, drain_ms=500)
MS = 1000


def running(count: int = 2) -> Watch:
    """All children started at 0 and ready."""
    watch = Watch(count, LIMITS)
    for process in watch.due(0):
        watch.started(process, 0)
    told = [watch.on_ready(process, 1) for process in range(count)]
    assert told == [False] * (count - 1) + [True]
    return watch


def test_all_are_due_at_once() -> None:
    assert Watch(3, LIMITS).due(0) == [0, 1, 2]


def test_the_wait_doubles_up_to_its_limit_and_starts_anew_after_a_stable_life() -> None:
    watch = running()
    now, waits = 100 * MS, []
    for _ in range(5):
        wait_us = watch.on_exit(1, -9, now)
        assert wait_us is not None and watch.next_deadline_us() == now + wait_us
        waits.append(wait_us // MS)
        now += wait_us
        assert watch.due(now - 1) == [] or wait_us == 0
        assert watch.due(now) == [1]
        watch.started(1, now)
    assert waits == [0, 100, 200, 300, 300]
    assert watch.on_exit(1, -9, now + 1000 * MS) == 0
    assert watch.children[1].restarts == 6 and watch.children[1].generation == 7


def test_ready_of_an_earlier_life_does_not_count() -> None:
    watch = running()
    watch.on_exit(0, -9, 10)
    watch.started(0, 10)
    assert not watch.on_ready(0, 1) and not watch.children[0].ready
    assert not watch.on_ready(0, 2) and watch.children[0].ready


def test_stalled_counts_from_the_last_beat_or_the_start() -> None:
    watch = running()
    assert watch.stalled(2000 * MS, [0, 0]) == []
    assert watch.stalled(2001 * MS, [0, 1500 * MS]) == [0]


def test_a_child_that_recovers_is_not_stalled() -> None:
    watch = Watch(1, LIMITS)
    watch.started(0, 0)
    assert watch.stalled(60_000 * MS, [0]) == []


def test_permanent_errors_end_the_start_but_not_a_node_that_served() -> None:
    watch = Watch(1, LIMITS)
    watch.started(0, 0)
    assert watch.on_exit(0, 65, 1) is None and watch.give_up == 65
    served = running(1)
    assert served.on_exit(0, 65, 1) == 0 and served.give_up is None


def test_three_deaths_before_ready_are_enough() -> None:
    watch = Watch(1, LIMITS)
    for expected in (0, 100 * MS, None):
        watch.started(0, 0)
        assert watch.on_exit(0, -11, 1) == expected
    assert watch.give_up == 70


def test_nothing_starts_while_the_node_stops() -> None:
    watch = running()
    watch.on_exit(0, -9, 5)
    watch.stop(10)
    assert watch.due(1 << 60) == [] and not watch.ended
    assert watch.on_exit(1, 0, 20) is None and watch.ended
    assert not watch.overdue(10 + 499 * MS) and watch.overdue(10 + 500 * MS)
