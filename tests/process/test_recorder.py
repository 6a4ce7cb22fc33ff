"""The judge must be able to condemn: each kind of broken promise in a made-up history is found, and an honest one
passes."""

from __future__ import annotations

import pytest

from tests.process.recorder import Operation, Outcome, check, classify, longest_gap
from tests.process.wire import ErrorReply, slot


def operation(verb: str, token: bytes, outcome: Outcome, reply: object = None) -> Operation:
    return Operation(0, verb, b"k", token, begun=0.0, ended=1.0, outcome=outcome, reply=reply)  # type: ignore[arg-type]


ACKED, REFUSED, UNKNOWN = Outcome.ACKED, Outcome.REFUSED, Outcome.UNKNOWN
SETS = [operation("SET", b"1;", ACKED), operation("SET", b"2;", UNKNOWN), operation("SET", b"3;", REFUSED)]
APPENDS = [operation("APPEND", b"1;", ACKED), operation("APPEND", b"2;", UNKNOWN), operation("APPEND", b"3;", REFUSED)]
INCRS = [operation("INCR", b"", ACKED, 1), operation("INCR", b"", UNKNOWN)]


@pytest.mark.parametrize(
    ("history", "value"),
    [
        (SETS, b"1;"),
        (SETS, b"2;"),
        (APPENDS, b"1;"),
        (APPENDS, b"2;1;"),
        (INCRS, b"1"),
        (INCRS, b"2"),
        (SETS[1:], None),
    ],
)
def test_kept_promises_pass(history: list[Operation], value: bytes | None) -> None:
    assert check(history, {b"k": value}) == []


@pytest.mark.parametrize(
    ("history", "value", "complaint"),
    [
        (SETS, None, "the value is None"),
        (SETS, b"3;", "the value is"),
        ([*SETS, operation("SET", b"4;", ACKED)], b"2;", "the value is"),
        (APPENDS, b"2;", "is lost"),
        (APPENDS, b"1;1;", "applied 2 times"),
        (APPENDS, b"1;2;2;", "applied 2 times"),
        (APPENDS, b"1;3;", "refused"),
        (APPENDS, b"1;9;", "nobody wrote"),
        (INCRS, None, "but the value is 0"),
        (INCRS, b"3", "but the value is 3"),
        ([*INCRS, operation("INCR", b"", ACKED, 1)], b"2", "given twice"),
    ],
)
def test_broken_promises_are_found(history: list[Operation], value: bytes | None, complaint: str) -> None:
    assert any(complaint in problem for problem in check(history, {b"k": value}))


def test_errors_are_sorted_into_refused_unknown_and_unheard_of() -> None:
    assert classify(ErrorReply("OVERLOAD retry_ms=5")) is Outcome.REFUSED
    assert classify(ErrorReply("UNKNOWN the outcome is not known")) is Outcome.UNKNOWN
    assert classify(b"OK") is Outcome.ACKED
    with pytest.raises(AssertionError, match="outside the error table"):
        classify(ErrorReply("ERR something broke"))


def test_gap_counts_the_edges() -> None:
    acks = [operation("SET", b"", ACKED), operation("SET", b"", UNKNOWN)]
    acks[0].ended, acks[1].ended = 3.0, 6.0
    assert longest_gap(acks, 0.0, 10.0) == 7.0


def test_slot_is_the_one_of_redis_cluster() -> None:
    assert slot(b"123456789") == 0x31C3 % 16384
    assert slot(b"a{user}b") == slot(b"user") and slot(b"{}x") != slot(b"")
