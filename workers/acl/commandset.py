"""Sets of commands as bits by command id: what a category, a command or a list of rules covers.

Invariant: a container stands for itself and its subcommands, everywhere. A rule list's meaning is that of applying its
rules in order; `added` leaves the meaning alone and keeps the list free of rules that later ones cover. Pure.
"""

from functools import lru_cache

from workers.commands import table
from workers.commands.row import CATEGORIES, Flag, Row

CATEGORY_NAMES: tuple[str, ...] = tuple(category[1:] for category in CATEGORIES)


class Unknown(Exception):
    """No such command or category."""


def find(name: str) -> Row | None:
    """A command or container|subcommand that clients may send."""
    row = table.BY_NAME.get(name.lower())
    return None if row is None or Flag.INTERNAL in row.flags else row


def of_row(row: Row) -> int:
    return (1 << row.id) | sum(1 << child.id for child in table.subcommands(row))


def in_category(category: str) -> list[Row]:
    return [row for row in table.ROWS if f"@{category}" in row.categories and Flag.INTERNAL not in row.flags]


@lru_cache(4096)
def covered(rule: str) -> int:
    """The commands that a rule, such as +@read or -config|get, says something about; `name|first` is that command's."""
    target = rule[1:]
    if target == "@all":
        return (1 << 1024) - 1
    if target.startswith("@"):
        if target[1:].lower() not in CATEGORY_NAMES:
            raise Unknown(rule)
        bits = 0
        for row in in_category(target[1:].lower()):
            bits |= of_row(row)
        return bits
    named = find(target) or find(target.partition("|")[0])
    if named is None:
        raise Unknown(rule)
    return of_row(named)


def is_first_argument(rule: str) -> bool:
    """+select|0: a command that has no subcommands, allowed with that first argument only."""
    return "|" in rule and find(rule[1:]) is None


def allowed(rules: tuple[str, ...]) -> int:
    """Commands that are allowed with any arguments."""
    bits = 0
    for rule in rules:
        if is_first_argument(rule):
            continue
        bits = bits | covered(rule) if rule[0] == "+" else bits & ~covered(rule)
    return bits


def first_arguments(rules: tuple[str, ...]) -> list[tuple[int, bytes]]:
    """(command id, first argument) of the rules of that kind."""
    pairs = [rule[1:].partition("|") for rule in rules if is_first_argument(rule)]
    return [(row.id, first.encode("latin-1")) for name, _, first in pairs if (row := find(name))]


def added(rules: tuple[str, ...], rule: str) -> tuple[str, ...]:
    """The rules with one more; rules that it makes pointless, or that is pointless itself, are left out."""
    bits = covered(rule)
    if rule[1:] == "@all":
        return (rule,)
    if is_first_argument(rule):
        known = bits & ~allowed(rules) == 0 or any(rule.lower() == other.lower() for other in rules)
        return rules if known else (*rules, rule)
    base, *others = rules
    kept = [known for known in others if known[1:] != rule[1:] and (covered(known) & ~bits or not covered(known))]
    return _effective(base, [*kept, rule])


def _effective(base: str, rules: list[str]) -> tuple[str, ...]:
    """Those that change something behind those before them; a category that is empty today may not be tomorrow."""
    found, bits = [base], allowed((base,))
    for rule in rules:
        after = bits if is_first_argument(rule) else bits | covered(rule) if rule[0] == "+" else bits & ~covered(rule)
        if after != bits or is_first_argument(rule) or (not covered(rule) and rule[0] != base[0]):
            found.append(rule)
        bits = after
    return tuple(found)
