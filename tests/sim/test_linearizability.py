"""The checker of histories: known good and known bad ones, and agreement with trying every order."""

import random
from itertools import permutations
from typing import Any

import pytest

from tests.sim import models
from tests.sim.linearizability import Operation, Verdict, by_key, check


def history(kind: str, *rows: tuple[Any, ...]) -> Verdict:
    """Rows: (call, return or None, request, answer)."""
    operations = [Operation(i, call, ret, request, answer) for i, (call, ret, request, answer) in enumerate(rows)]
    return check(operations, models.step(kind, operations), models.initial(kind))


def test_one_after_the_other() -> None:
    assert history("register", (0, 1, ("write", 5), "ok"), (2, 3, ("read",), 5)).ok
    verdict = history("register", (0, 1, ("write", 5), "ok"), (2, 3, ("read",), None))
    assert not verdict.ok
    assert [op.request for op in verdict.linearized] == [("write", 5)]
    assert [op.request for op in verdict.stuck_at] == [("read",)]


def test_overlapping_operations_may_take_either_order() -> None:
    write = (0, 10, ("write", 1), "ok")
    assert history("register", write, (2, 4, ("read",), None)).ok
    assert history("register", write, (2, 4, ("read",), 1)).ok


def test_a_value_once_read_cannot_be_unread() -> None:
    """A new-old inversion: two reads inside a write, the later one sees the older value."""
    write = (0, 10, ("write", 1), "ok")
    assert not history("register", write, (1, 2, ("read",), 1), (3, 4, ("read",), None)).ok


def test_touching_intervals_count_as_overlapping() -> None:
    assert history("register", (0, 5, ("write", 1), "ok"), (5, 6, ("read",), None)).ok


def test_an_unanswered_write_may_take_effect_late_or_never() -> None:
    lost = (0, None, ("write", 7), None)
    assert history("register", lost, (10, 11, ("read",), None), (20, 21, ("read",), 7)).ok
    assert history("register", lost, (10, 11, ("read",), None)).ok
    assert not history("register", lost, (10, 11, ("read",), 7), (20, 21, ("read",), None)).ok
    assert not history("register", (5, None, ("write", 7), None), (1, 2, ("read",), 7)).ok


def test_a_command_applied_twice_is_seen() -> None:
    one = (0, 1, ("add", 1), 1)
    assert not history("counter", one, (2, 3, ("read",), 2)).ok
    assert not history("list", (0, 1, ("append", 4), 1), (2, 3, ("read",), (4, 4))).ok
    assert not history("set", (0, 1, ("insert", 4), True), (2, 3, ("insert", 4), True)).ok


def test_a_lost_append_is_seen() -> None:
    assert not history("list", (0, 1, ("append", 1), 1), (2, 3, ("append", 2), 2), (4, 5, ("read",), (2,))).ok


def test_cas_cannot_win_twice() -> None:
    first, second = (0, 9, ("cas", None, 1), True), (1, 8, ("cas", None, 2), True)
    assert not history("register", first, second).ok
    assert history("register", first, (1, 8, ("cas", None, 2), False)).ok


def test_keys_are_judged_apart() -> None:
    rows = [
        ("a", Operation(0, 0, 1, ("read",))),
        ("b", Operation(1, 0, 1, ("read",))),
        ("a", Operation(0, 2, 3, ("read",))),
    ]
    assert {key: len(ops) for key, ops in by_key(rows).items()} == {"a": 2, "b": 1}


def test_a_search_without_end_is_given_up_and_says_so() -> None:
    rows = [Operation(i, 0, None, ("append", i)) for i in range(20)]
    rows.append(Operation(99, 0, 100, ("append", 99), 77))
    verdict = check(rows, models.step("list", ()), models.initial("list"), steps_max=500)
    assert verdict.undecided
    assert not verdict.ok


@pytest.mark.parametrize("kind", ["register", "counter", "list", "set"])
def test_a_long_good_history_is_judged_fast(kind: str) -> None:
    rng = random.Random(3)
    operations, _ = random_history(rng, kind, 400, 6)
    verdict = check(operations, models.step(kind, operations), models.initial(kind))
    assert verdict.ok
    assert verdict.steps < 60_000


def random_history(rng: random.Random, kind: str, count: int, clients: int) -> tuple[list[Operation], Any]:
    """A history made by applying each operation at a point inside its interval; some lose their answer."""
    free = [0] * clients
    points = []
    for i in range(count):
        client = rng.randrange(clients)
        call = free[client] + rng.randrange(1, 5)
        ret = call + rng.randrange(1, 12)
        free[client] = ret
        points.append((call + rng.random() * (ret - call), client, call, ret, random_request(rng, kind, i)))
    value, operations = models.INITIAL[kind], []
    for _, client, call, ret, request in sorted(points):
        value, answer = models.apply(kind, value, request)
        lost = rng.random() < 0.03 and request[0] != "read"
        operations.append(Operation(client, call, None if lost else ret, request, None if lost else answer))
    return operations, value


def random_request(rng: random.Random, kind: str, i: int) -> tuple[Any, ...]:
    if rng.random() < 0.4:
        return ("read",)
    if kind == "register":
        return ("write", i) if rng.random() < 0.6 else ("cas", rng.choice([None, i - 1, i - 2]), i)
    return {"counter": ("add", 1), "list": ("append", i), "set": ("insert", rng.randrange(8))}[kind]


def test_it_agrees_with_trying_every_order() -> None:
    """Small random histories, half of them with one answer changed."""
    rng = random.Random(11)
    bad = 0
    for _ in range(400):
        kind = rng.choice(models.KINDS)
        operations, _ = random_history(rng, kind, 5, 3)
        if rng.random() < 0.5:
            at = rng.randrange(len(operations))
            other = rng.choice(operations).answer
            if operations[at].return_us is not None:
                operations[at] = operations[at]._replace(answer=other)
        expected = any_order(operations, kind)
        bad += not expected
        assert check(operations, models.step(kind, operations), models.initial(kind)).ok == expected, operations
        assert models.judge(kind, operations).ok == expected, operations
    assert 40 < bad < 300


def any_order(operations: list[Operation], kind: str) -> bool:
    """By definition: some subset of the unanswered and all answered ones, in some order that respects real time."""
    unknown = [op for op in operations if op.return_us is None]
    known = [op for op in operations if op.return_us is not None]
    for subset in range(1 << len(unknown)):
        chosen = known + [op for i, op in enumerate(unknown) if subset >> i & 1]
        if any(fits(order, kind) for order in permutations(chosen)):
            return True
    return False


def fits(order: tuple[Operation, ...], kind: str) -> bool:
    value = models.INITIAL[kind]
    for i, op in enumerate(order):
        if any(later.return_us is not None and later.return_us < op.call_us for later in order[i + 1 :]):
            return False
        value, answer = models.apply(kind, value, op.request)
        if op.return_us is not None and answer != op.answer:
            return False
    return True
