"""What one command's row holds, and the shorthand that the families' tables are written in.

Pure data: nothing here looks a command up or runs it.
"""

from dataclasses import dataclass
from enum import IntFlag


class Flag(IntFlag):
    """How C treats a command: the ND_CMD_* bits of csrc/cmd.h, checked against them by a test."""

    WRITE = 1
    READ = 2
    PYTHON = 4
    FAST = 8
    GROUP_ALL = 16
    INTERNAL = 32
    DENYOOM = 128
    WORKER = 256
    NO_AUTH = 512
    VARIABLE_ACCESS = 1024


NO_FLAGS = Flag(0)

# COMMAND INFO lists categories in this order.
CATEGORIES = (
    *(
        "@keyspace",
        "@read",
        "@write",
        "@set",
        "@sortedset",
        "@list",
        "@hash",
        "@string",
        "@bitmap",
        "@hyperloglog",
        "@geo",
    ),
    *("@stream", "@pubsub", "@admin", "@fast", "@slow", "@blocking", "@dangerous", "@connection", "@transaction"),
    "@scripting",
)


@dataclass(frozen=True, slots=True)
class KeySpec:
    """A run of keys: arguments first, first + step, … last (negative: from the end), and what is done to them."""

    first: int
    last: int
    step: int
    access: str

    @property
    def bits(self) -> int:
        """What access rules must allow: ND_ACL_READ | ND_ACL_WRITE."""
        words = set(self.access.split())
        return ("access" in words) | 2 * bool(words & {"insert", "delete", "update"})


@dataclass(frozen=True, slots=True)
class Row:
    """One command. `function` names the C function; "" = a Python handler, or a container with subcommands only."""

    name: str
    id: int
    arity: int
    flags: Flag
    marks: tuple[str, ...]
    categories: tuple[str, ...]
    specs: tuple[KeySpec, ...]
    family: str
    function: str
    since: str
    summary: str
    tips: tuple[str, ...]

    @property
    def container(self) -> str | None:
        """The name before the bar of a subcommand."""
        head, bar, _ = self.name.partition("|")
        return head if bar else None

    @property
    def keys(self) -> tuple[int, int, int]:
        """First, last and step over all key specs, as COMMAND INFO's legacy fields; (0, 0, 0) without keys."""
        if not self.specs:
            return (0, 0, 0)
        return (self.specs[0].first, self.specs[-1].last, max(spec.step for spec in self.specs))

    @property
    def key_access(self) -> tuple[int, int]:
        """What is done to the first key and to the others, as bits."""
        if not self.specs:
            return (0, 0)
        first, *others = [spec.bits for spec in self.specs]
        assert len(set(others)) <= 1 and (not others or self.specs[0].first == self.specs[0].last), self.name
        return (first, others[0] if others else first)


def _more_flags(marks: tuple[str, ...], specs: tuple[KeySpec, ...]) -> Flag:
    flags = Flag.NO_AUTH if "no_auth" in marks else NO_FLAGS
    return flags | (Flag.VARIABLE_ACCESS if any("variable_flags" in spec.access for spec in specs) else NO_FLAGS)


def _categories(family: str, marks: tuple[str, ...]) -> tuple[str, ...]:
    of_family = {"string": "@string", "bitmap": "@bitmap", "generic": "@keyspace", "connection": "@connection"}
    chosen = {"@fast" if "fast" in marks else "@slow"}
    if family in of_family:
        chosen.add(of_family[family])
    if "write" in marks:
        chosen.add("@write")
    if "readonly" in marks:
        chosen.add("@read")
    if "admin" in marks:
        chosen |= {"@admin", "@dangerous"}
    return tuple(category for category in CATEGORIES if category in chosen)


def _flags(marks: tuple[str, ...], function: str) -> Flag:
    if not function:
        return Flag.PYTHON
    flags = NO_FLAGS
    if "write" in marks:
        flags |= Flag.WRITE
    if "readonly" in marks:
        flags |= Flag.READ
    if "denyoom" in marks:
        flags |= Flag.DENYOOM
    return flags or Flag.FAST


def make_row(
    name: str,
    id: int,
    arity: int,
    marks: str,
    since: str,
    summary: str,
    *,
    family: str,
    function: str = "",
    keys: str = "",
    at: tuple[int, int, int] = (1, 1, 1),
    specs: tuple[KeySpec, ...] = (),
    tips: tuple[str, ...] = (),
    categories: tuple[str, ...] | None = None,
    more_flags: Flag = NO_FLAGS,
) -> Row:
    """A row from its words. `keys` says what is done to the keys at the positions `at` (default: argument 1 alone)."""
    words = tuple(marks.split())
    all_specs = specs or ((KeySpec(*at, keys),) if keys else ())
    return Row(
        name=name,
        id=id,
        arity=arity,
        flags=_flags(words, function) | _more_flags(words, all_specs) | more_flags,
        marks=words,
        categories=_categories(family, words) if categories is None else categories,
        specs=all_specs,
        family=family,
        function=function,
        since=since,
        summary=summary,
        tips=tips,
    )
