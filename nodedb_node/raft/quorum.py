"""Majorities: what a majority of values reaches, and what votes have decided.

Invariant: pure functions of numbers; an empty set agrees to everything (the outgoing half of a configuration that is
not joint). Who the voters are is membership's.
"""

from collections.abc import Collection, Mapping
from enum import Enum

from nodedb_node.ids import NodeNumber

EVERYTHING = 1 << 62  # larger than every index and time


class Votes(Enum):
    OPEN = "open"
    WON = "won"
    LOST = "lost"


def reached(values: list[int]) -> int:
    """The largest value that a majority of these has reached. Sorts the list."""
    if not values:
        return EVERYTHING
    values.sort()
    return values[(len(values) - 1) >> 1]


def counted(voters: Collection[NodeNumber], votes: Mapping[NodeNumber, bool]) -> Votes:
    """One set's decision; a voter that is not in votes has not answered."""
    if not voters:
        return Votes.WON
    needed = len(voters) // 2 + 1
    granted = sum(1 for node in voters if votes.get(node) is True)
    refused = sum(1 for node in voters if votes.get(node) is False)
    if granted >= needed:
        return Votes.WON
    return Votes.LOST if len(voters) - refused < needed else Votes.OPEN


def counted_jointly(
    voters: Collection[NodeNumber], outgoing: Collection[NodeNumber], votes: Mapping[NodeNumber, bool]
) -> Votes:
    """Both sets must grant; one that refuses is enough (thesis, 4.3)."""
    both = (counted(voters, votes), counted(outgoing, votes))
    if Votes.LOST in both:
        return Votes.LOST
    return Votes.WON if both == (Votes.WON, Votes.WON) else Votes.OPEN
