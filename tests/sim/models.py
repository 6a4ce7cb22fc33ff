"""What the simulated state machine does with one key, as plain functions: the twin applies them, the checker judges by
them. Four kinds: register, counter, list (append), set.

Values are hashable and never changed in place, so a snapshot of a state is a copy of the dictionary of keys.
"""

from collections.abc import Hashable
from typing import Any

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


def step(kind: str) -> Any:
    """The sequential model of that kind, as linearizability.check wants it."""

    def stepped(value: Any, request: tuple[Any, ...], answer: Any, known: bool) -> Hashable | None:
        after, right = apply(kind, value, request)
        # A wrapper, as None is a register's first value and must not read as "does not fit".
        return (after,) if not known or right == answer else None

    return lambda state, request, answer, known: stepped(state[0], request, answer, known)


def initial(kind: str) -> Hashable:
    """The model's first state for a key of that kind."""
    return (INITIAL[kind],)
