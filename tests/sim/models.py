"""What the simulated state machine does with one key, as plain functions: the twin applies them, the checker judges by
them. Four kinds: register, counter, list (append), set.

Values are hashable and never changed in place, so a snapshot of a state is a copy of the dictionary of keys.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from tests.sim.linearizability import Verdict, check

INITIAL: dict[str, Any] = {"register": None, "counter": 0, "list": (), "set": ()}
KINDS = tuple(INITIAL)


def apply(kind: str, value: Any, request: tuple[Any, ...]) -> tuple[Any, Any]:
    """(value after, answer) of one command on a key of that kind."""
    verb = request[0]
    if verb == "read":
        return value, value
    if kind == "register":
        if verb == "write":
            return request[1], "ok"
        assert verb == "cas"
        return (request[2], True) if value == request[1] else (value, False)
    if kind == "counter":
        assert verb == "add"
        return value + request[1], value + request[1]
    if kind == "list":
        assert verb == "append"
        return (*value, request[1]), len(value) + 1
    assert kind == "set" and verb == "insert"
    if request[1] in value:
        return value, False
    return tuple(sorted((*value, request[1]))), True


def judge(kind: str, history: Sequence[Any]) -> Verdict:
    """Is one key's history linearizable?"""
    verdict = check(may_be_left_out(kind, history), step(kind, history), initial(kind))
    return verdict if verdict.ok else check(history, step(kind, history), initial(kind))


def step(kind: str, history: Iterable[Any]) -> Any:
    """The sequential model of that kind, as linearizability.check wants it. history: what is to be judged; of lists and
    sets, which only grow, its longest answer tells early which states lead nowhere."""
    longest = max((op.answer for op in history if is_whole(op)), key=len, default=())

    def stepped(value: Any, request: tuple[Any, ...], answer: Any, known: bool) -> Hashable | None:
        after, right = apply(kind, value, request)
        if known and right != answer:
            return None
        if longest and not grows(kind, after, longest):
            return None
        if kind == "list" and len(after) > len(longest):
            after = (*longest, *[None] * (len(after) - len(longest)))  # nobody saw what: only its length counts
        # A wrapper, as None is a register's first value and must not read as "does not fit".
        return (after,)

    return lambda state, request, answer, known: stepped(state[0], request, answer, known)


def may_be_left_out(kind: str, history: Sequence[Any]) -> list[Any]:
    """The history without unanswered writes that nobody saw. They may have taken effect unseen, or not at all: an order
    without them is an order; only when there is none they are needed."""
    seen: set[Any] = set()
    for op in history:
        if op.return_us is not None:
            seen.update(op.answer if isinstance(op.answer, tuple) else (op.answer,))
            seen.update(op.request[1:2] if op.request[0] == "cas" and op.answer is True else ())
    return [op for op in history if op.return_us is not None or kind == "counter" or op.request[-1] in seen]


def is_whole(operation: Any) -> bool:
    """A read that shows a whole list or set."""
    return operation.request[0] == "read" and isinstance(operation.answer, tuple)


def grows(kind: str, state: tuple[Any, ...], longest: tuple[Any, ...]) -> bool:
    """Can the state still become `longest`, or has it come from there?"""
    if kind == "list":
        return state[: len(longest)] == longest[: len(state)]
    return set(state) <= set(longest) or set(state) >= set(longest)


def initial(kind: str) -> Hashable:
    """The model's first state for a key of that kind."""
    return (INITIAL[kind],)
