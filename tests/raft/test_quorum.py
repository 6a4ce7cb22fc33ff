"""Majorities against brute force, configurations against their rules."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from nodedb_node.ids import NodeNumber
from nodedb_node.raft import configuration as configurations
from nodedb_node.raft.messages import ConfigChange, Configuration, Member, ReplicaId
from nodedb_node.raft.quorum import EVERYTHING, Votes, counted, counted_jointly, reached

VALUES = st.lists(st.integers(0, 9), max_size=9)
NODES = st.lists(st.integers(1, 9), max_size=9, unique=True)
ANSWERS = st.dictionaries(st.integers(1, 9), st.booleans())


def majorities(nodes: list[int]) -> list[tuple[int, ...]]:
    return list(combinations(nodes, len(nodes) // 2 + 1))


@given(VALUES)
def test_reached_is_the_best_of_all_majorities(values: list[int]) -> None:
    expected = max((min(some) for some in majorities(values)), default=EVERYTHING) if values else EVERYTHING
    assert reached(list(values)) == expected


@given(NODES, ANSWERS)
def test_votes_of_one_set(nodes: list[int], answers: dict[int, bool]) -> None:
    won = not nodes or any(all(answers.get(node) for node in some) for some in majorities(nodes))
    possible = not nodes or any(all(answers.get(node, True) for node in some) for some in majorities(nodes))
    assert counted(nodes, answers) == (Votes.WON if won else Votes.OPEN if possible else Votes.LOST)


@given(NODES, NODES, ANSWERS)
def test_votes_of_two_sets(voters: list[int], outgoing: list[int], answers: dict[int, bool]) -> None:
    both = {counted(voters, answers), counted(outgoing, answers)}
    expected = Votes.LOST if Votes.LOST in both else Votes.WON if both == {Votes.WON} else Votes.OPEN
    assert counted_jointly(voters, outgoing, answers) == expected


@st.composite
def steady(draw: st.DrawFn) -> Configuration:
    nodes = draw(st.lists(st.integers(1, 9), min_size=1, unique=True))
    roles = [0, *(draw(st.integers(0, 2)) for _ in nodes[1:])]
    rows: tuple[list[Member], ...] = ([], [], [])
    for node, role in zip(nodes, roles, strict=True):
        rows[role].append(Member(NodeNumber(node), ReplicaId(draw(st.integers(0, 50)))))
    voters, learners, observers = (tuple(sorted(row)) for row in rows)
    return Configuration(voters, (), learners, observers)


FEW = st.lists(st.integers(1, 9), max_size=3, unique=True).map(tuple)


@given(steady(), FEW, FEW, FEW, FEW, FEW)
def test_a_change_keeps_the_rules(
    before: Configuration, learners: tuple, observers: tuple, promote: tuple, demote: tuple, remove: tuple
) -> None:
    """Whatever is asked: refused, or a configuration in which any two quorums of old and new intersect."""
    assert configurations.fault(before) == ""
    after = configurations.changed(before, ConfigChange(learners, observers, promote, demote, remove), 100)
    if isinstance(after, str):
        assert after
        return
    assert configurations.fault(after) == "" and configurations.decode(configurations.encode(after)) == after
    if after.voters != before.voters:
        assert after.outgoing == before.voters
        after = configurations.final(after)
    assert after.outgoing == () and after.voters
    old, new = configurations.members(before), configurations.members(after)
    for node in set(learners) | set(observers):
        assert new[node] == 100
    for node in new.keys() & old.keys():
        assert new[node] == old[node], "a member keeps its replica id"
    assert not set(remove) & new.keys()


def test_what_cannot_be_asked() -> None:
    three = configurations.founding([NodeNumber(1), NodeNumber(2), NodeNumber(3)])
    ask = {
        "nothing": ConfigChange(),
        "twice": ConfigChange(add_learners=(4,), remove=(4,)),
        "a member": ConfigChange(add_learners=(2,)),
        "a stranger promoted": ConfigChange(promote=(4,)),
        "a learner demoted": ConfigChange(demote=(4,)),
        "a stranger removed": ConfigChange(remove=(4,)),
        "no voters left": ConfigChange(remove=(1, 2, 3)),
        "node 0": ConfigChange(add_learners=(0,)),
    }
    for name, change in ask.items():
        assert isinstance(configurations.changed(three, change, 7), str), name


def test_bytes_that_are_no_configuration() -> None:
    good = configurations.encode(configurations.founding([NodeNumber(1), NodeNumber(2)]))
    twice = Configuration(voters=(Member(NodeNumber(1)), Member(NodeNumber(1), ReplicaId(5))))
    for data in (b"", b"\xc1", good[:-1], b"\x93\x01\x02\x03", configurations.encode(twice)):
        assert configurations.decode(data) is None
