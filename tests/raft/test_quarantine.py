"""A replica that may have lost what it promised: it gives no vote, and what it acknowledges counts for nothing."""

import pytest

from nodedb_node.ids import NodeNumber
from nodedb_node.raft.messages import (
    AppendResponse,
    ConfigChange,
    NotCaughtUp,
    QuarantineMark,
    RequestVote,
    Role,
)
from tests.raft.group import MS, Group
from tests.raft.test_thesis import answer, appended, offered_a_snapshot, vote_request


def test_a_replica_that_lost_what_it_acknowledged_gives_no_vote() -> None:
    """{1, 2, 3}: entry 2 is committed by 1 and 3; 3 loses it; with its vote 2 could lead without the entry."""
    group = Group(3)
    group.elect(1)
    group.cut |= {(1, 2)}
    group.propose(1, "a")
    group.settle()
    group.crash(3)
    del group.replicas[3].disk.entries[1:]
    group.restart(3, quarantined=True)
    group.crash(1)
    group.cut.clear()
    group.now_us += 5000 * MS
    group[2].campaign(group.now_us)
    group.settle()
    assert group[2].role != Role.LEADER
    for _ in range(10):
        group.run(1000 * MS)
    assert group[2].role != Role.LEADER and group[3].role == Role.FOLLOWER and group[3].quarantine
    group.restart(1)
    group.run(8000 * MS)
    assert group.leader.node == 1 and not group[3].quarantine and group.data(3) == ["a"]


def test_the_acknowledgements_of_a_quarantined_replica_count_for_nothing() -> None:
    group = Group(3)
    group.elect(1)
    group.cut |= {(2, 1)}
    group.crash(3)
    group.restart(3, quarantined=True)
    group.now_us += 950 * MS
    group.propose(1, "a")
    group.run(600 * MS)
    assert group[3].log.last_index == group[1].log.last_index and group[1].commit == 1
    assert not group[1].lease_valid(group.now_us) and group[3].quarantine, "the leader is not confirmed either"


def test_a_leader_from_before_the_restart_cannot_end_the_quarantine() -> None:
    group = Group(3)
    group.elect(1)
    group.propose(1, "a")
    group.settle()
    group.crash(3)
    group.restart(3, quarantined=True)
    number = group[3].quarantine
    for release_of in (0, number + 1):
        group.deliver(appended(1, 3, 1, (2, 1), [], release_of=release_of, release_index=1))
        assert group[3].quarantine == number
    group.deliver(appended(1, 3, 1, (2, 1), [], release_of=number, release_index=3))
    assert group[3].quarantine == number, "not whole yet"
    group.deliver(appended(1, 3, 1, (2, 1), [], release_of=number, release_index=2))
    ready = group[3].take_ready()
    assert not group[3].quarantine and ready is not None and QuarantineMark(False) in ready.records


def forget_hard_state(group: Group, node: int) -> None:
    """The record of term and vote is lost; the process comes back in quarantine."""
    group.crash(node)
    disk = group.replicas[node].disk
    disk.term, disk.vote, disk.quarantined = 0, 0, True
    group.restart(node)


def test_a_lost_vote_is_not_given_again_while_whom_it_was_for_may_still_count_it() -> None:
    """{1 .. 5}: 5 votes for 2 in term 2, which nobody else hears of, and forgets it. Were 1 to let 5 go because 3 and 4
    answer, 5 could vote in term 2 again and make 3 a second leader. With an entry that 2 lacks at 3 and 4 it may."""
    group = Group(5)
    group.elect(1)
    group.run(500 * MS)
    assert group[1].transfer(group.now_us, NodeNumber(2)) is None
    group.exchange()
    group.flush()
    asks = [message for message in group.network if type(message) is RequestVote]
    assert {(message.sender, message.term) for message in asks} == {(2, 2)}
    group.network.clear()
    group.deliver(next(message for message in asks if message.receiver == 5))
    group.settle()
    assert (group[5].term, group[5].vote, group[2].votes) == (2, 2, {2: True, 5: True})
    group.replicas[2].alive = False  # it stands still, and has the vote
    forget_hard_state(group, 5)
    deliver_only(group, {1, 5}, 20)
    assert group[1].contacts.acked_us(NodeNumber(3)) > group.now_us - 10 * MS, "3 and 4 answer, and all the same:"
    assert group[5].term == 1 and group[5].quarantine
    group.run(500 * MS)
    assert not group[5].quarantine and group[1].role == Role.LEADER
    group.crash(1)
    after_promises(group)
    for message in asks:
        assert message.receiver in (1, 5) or not answer(group, message.receiver, message).granted
    assert answer(group, 5, vote_request(3, 5, 2, (9, 9))).granted, "2 does not win that term"


def deliver_only(group: Group, nodes: set[int], rounds: int) -> None:
    """Lanes beat everywhere, other messages pass between these replicas only."""
    for _ in range(rounds):
        group.beat()
        group.flush()
        held, group.network = group.network, []
        for message in held:
            if {message.sender, message.receiver} <= nodes:
                group.deliver(message)
        group.now_us += 5 * MS


def after_promises(group: Group) -> None:
    for replica in group.replicas.values():
        replica.lanes.heard, replica.lanes.promised = {}, 0
    group.now_us += 2100 * MS


@pytest.mark.parametrize(
    "change", [ConfigChange(remove=(NodeNumber(6),)), ConfigChange(demote=(NodeNumber(6),))], ids=["removed", "demoted"]
)
def test_a_voter_that_does_not_know_that_it_is_none_any_more_has_a_lost_vote(change: ConfigChange) -> None:
    """{1 .. 6} without 6: the last configuration is in every log, and only the leader 4 knows that it is committed. 6
    may still campaign; 5 votes for it in term 2, forgets it, and has 4's word that all voters there are were heard.
    Released, it would make 3 leader of term 2 with 4; and 6 has the votes of 5, 1 and 2."""
    group = Group(6)
    group.elect(4)
    group.run(300 * MS)
    changed = group[4].propose_config(group.now_us, change)
    assert isinstance(changed, tuple)
    final, late = changed[0] + 1, []
    while group.flush() or group.network:
        held, group.network = group.network, []
        for message in held:
            if isinstance(message, AppendResponse) and message.index >= final:
                late.append(message)
            else:
                group.deliver(message)
    assert {group[node].configs[-1][0] for node in range(1, 7)} == {final}
    assert {group[node].commit for node in range(1, 7)} == {changed[0]}

    group.cut = {(4, node) for node in (1, 2, 3, 5, 6)} | {(node, 4) for node in (1, 2, 3, 5, 6)}
    for replica in group.replicas.values():
        replica.lanes.heard, replica.lanes.promised = {}, 0
    group.now_us += 1100 * MS
    assert group[6].campaign(group.now_us) is None
    while not (asks := [m for m in group.network if isinstance(m, RequestVote) and not m.pre]):
        group.exchange()
        group.flush()
    assert {(message.sender, message.term) for message in asks} == {(6, 2)}
    group.network.clear()
    assert answer(group, 5, next(message for message in asks if message.receiver == 5)).granted

    group.network.clear()
    group.replicas[6].alive = False  # it stands still, and has the vote
    group.cut.clear()
    forget_hard_state(group, 5)
    for message in late:
        if message.sender in (1, 2, 3):
            group.deliver(message)
    deliver_only(group, {4, 5}, 12)
    assert group[4].role == Role.LEADER and group[4].commit >= final and group[1].commit == changed[0]
    assert group[5].term == 1 and group[5].quarantine

    group.run(500 * MS)
    assert not group[5].quarantine
    group.crash(4)
    after_promises(group)
    for message in asks:
        assert message.receiver == 5 or not answer(group, message.receiver, message).granted


def test_two_voters_of_which_one_is_in_quarantine_have_no_leader_and_say_so() -> None:
    """docs/faults.md, R2: the whole one cannot be elected without the other's vote, which it must not give."""
    group = Group(2)
    group.elect(1)
    group.propose(1, "a")
    group.settle()
    group.now_us += 1
    forget_hard_state(group, 2)
    group.run(20_000 * MS)
    assert [replica.raft.role for replica in group.replicas.values()].count(Role.LEADER) == 0
    assert group[2].quarantine and group[1].leader == 0 and group.data(1) == ["a"], "nothing is lost at 1"


def test_a_third_voter_that_comes_back_ends_a_quarantine_that_left_no_majority() -> None:
    group = Group(3)
    group.elect(1)
    group.propose(1, "a")
    group.settle()
    group.now_us += 1
    group.crash(3)
    forget_hard_state(group, 2)
    group.run(8_000 * MS)
    assert group[1].role != Role.LEADER and group[2].quarantine
    group.restart(3)
    group.run(8_000 * MS)
    assert not group[2].quarantine and group.leader.node in (1, 3)


def test_two_in_quarantine_do_not_wait_for_each_other() -> None:
    group = Group(5)
    group.elect(1)
    group.propose(1, "a")
    group.settle()
    forget_hard_state(group, 4)
    forget_hard_state(group, 5)
    group.run(2000 * MS)
    assert not group[4].quarantine and not group[5].quarantine


def test_a_lost_voter_does_not_keep_a_quarantine_open() -> None:
    """docs/faults.md, R4: {1 .. 5} without 5 for good, 4 in quarantine; 1, 2 and 3 serve."""
    group = Group(5)
    group.elect(1)
    group.crash(5)
    group.now_us += 1
    forget_hard_state(group, 4)
    group.run(500 * MS)
    assert group.leader.node == 1 and not group[4].quarantine
    removed = group.leader.propose_config(group.now_us, ConfigChange(remove=(NodeNumber(5),)))
    assert isinstance(removed, tuple)
    group.run(2000 * MS)
    assert group.leader.commit > removed[0]


def test_a_quarantine_survives_a_second_restart_and_a_second_leader() -> None:
    """What may have been voted in is the term of the leader that ends it, not of the first one heard of."""
    group = Group(3)
    group.elect(1)
    group.propose(1, "a")
    group.settle()
    group.now_us += 1
    group.cut |= {(1, 2), (2, 1)}
    forget_hard_state(group, 3)
    group.run(500 * MS)
    group.crash(3)
    group.restart(3)
    assert group[3].quarantine
    group.crash(1)
    group.cut.clear()
    group.restart(1)
    group.run(8000 * MS)
    leader = group.leader
    assert not group[3].quarantine and (group[3].term, group[3].vote) == (leader.term, leader.node)


def test_without_hard_state_no_vote_in_the_leader_s_term() -> None:
    group = Group(3)
    group.elect(1)
    forget_hard_state(group, 3)
    group.run(1000 * MS)
    assert not group[3].quarantine and (group[3].term, group[3].vote) == (1, 1)
    group.now_us += 5000 * MS
    assert not answer(group, 3, vote_request(2, 3, 1, (9, 9))).granted


def test_an_answer_from_a_quarantine_that_is_over_says_nothing() -> None:
    """Its late duplicate would be believed by a leader that has nothing more to ask: with two voters reads wait on."""
    group = Group(3)
    group.elect(1)
    group.now_us += 1
    forget_hard_state(group, 3)
    late = None
    for _ in range(10):
        group.beat()
        group.flush()
        quarantined = [m for m in group.network if isinstance(m, AppendResponse) and m.quarantine]
        late = late or next(iter(quarantined), None)
        group.exchange()
    group.settle()
    assert late is not None and not group[3].quarantine
    group.deliver(late)
    assert not group[1].peers[NodeNumber(3)].quarantine and group[1].drops


def test_an_acknowledgement_from_before_a_quarantine_does_not_count_after_it() -> None:
    """{1, 2, 3}: 3 acknowledges entry 2, then finds damage; the news of that overtakes the acknowledgement."""
    group = Group(3)
    group.elect(1)
    group.settle()
    group.cut |= {(1, 2)}
    group.propose(1, "a")
    group.exchange()
    group.flush()
    (early,) = [message for message in group.network if message.receiver == 1]
    group.network.clear()
    group[3].quarantine_now(group.now_us, "a scrub found damage")
    group[1].lane_exception(group.now_us, NodeNumber(3), 1)
    group.propose(1, "b")
    for _ in range(3):
        group.advance(250 * MS)
        group.exchange()
    assert group[1].peers[NodeNumber(3)].quarantine == group[3].quarantine != 0
    matched = group[1].peers[NodeNumber(3)].match
    group.deliver(early)
    assert group[1].peers[NodeNumber(3)].quarantine == group[3].quarantine
    assert group[1].peers[NodeNumber(3)].match == matched and group[1].commit == 1


def test_the_append_that_ends_a_quarantine_is_a_promise_too() -> None:
    group = Group(3)
    group.elect(1)
    group.crash(3)
    group.restart(3, quarantined=True)
    group.now_us += 5000 * MS  # past the boot fence
    release = {"release_of": group[3].quarantine, "release_index": 1}
    group.deliver(appended(1, 3, 1, (1, 1), [], **release))
    assert not group[3].quarantine
    assert not answer(group, 3, vote_request(2, 3, 2, (9, 9))).granted and group[3].term == 1


def test_voters_that_are_no_majority_without_a_quarantined_one_are_not_made() -> None:
    """{1, 2, 3} with 3 in quarantine: 1 and 3 could never commit the configuration that makes them the voters."""
    group = Group(3)
    group.elect(1)
    group.run(500 * MS)
    group.cut |= {(1, 3)}
    forget_hard_state(group, 3)
    group.run(300 * MS)
    remove = ConfigChange(remove=(NodeNumber(2),))
    assert group[1].propose_config(group.now_us, remove) == NotCaughtUp(NodeNumber(3)), (
        "it has not said that it is whole"
    )
    group.cut = {(1, 2)}
    for _ in range(6):
        group.advance(100 * MS)
        group.exchange()
        group.beat()
    assert group[1].peers[NodeNumber(3)].quarantine
    assert group[1].propose_config(group.now_us, remove) == NotCaughtUp(NodeNumber(3))
    group.cut.clear()
    group.run(1000 * MS)
    assert not group[3].quarantine
    assert isinstance(group[1].propose_config(group.now_us, remove), tuple)
    group.run(1000 * MS)
    assert [member.node for member in group[1].configs[-1][1].voters] == [1, 3]
    assert group[1].commit == group[1].log.last_index


def test_the_answer_to_an_offer_may_be_the_first_to_tell_of_a_quarantine() -> None:
    """Found by the simulator (mixed, 32): what was asked before is void, and so is where the next append began."""
    group, offer = offered_a_snapshot()
    group[3].quarantine_now(group.now_us, "a scrub found damage")
    group[3].snapshot_installed(group.now_us, offer)
    group.run(500 * MS)
    assert not group[3].quarantine and group.data(3) == group.data(1)
