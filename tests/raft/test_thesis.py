"""Rules of Raft, each under the section of Ongaro's thesis (2014) that states it."""

from typing import Any

import pytest

from nodedb_node.ids import NodeNumber
from nodedb_node.raft import configuration as configurations
from nodedb_node.raft.messages import (
    AppendEntries,
    AppendResponse,
    ConfigChange,
    Entry,
    HardState,
    InstallSnapshot,
    NotCaughtUp,
    NotLeader,
    RequestVote,
    Role,
    SnapshotOffered,
    VoteResponse,
)
from tests.raft.group import FOUNDER, MS, Group, header


def vote_request(sender: int, receiver: int, term: int, last: tuple[int, int], **flags: Any) -> RequestVote:
    row = (*header(sender, receiver, term), 9)
    return RequestVote(*row, *last, flags.get("pre", False), flags.get("transfer", False))


def answer(group: Group, node: int, message: Any) -> Any:
    """What the replica says to this message; everything it says is durable by then."""
    group.network.clear()
    group.deliver(message)
    group.flush()
    said, group.network = group.network, []
    return said[-1]


def appended(
    sender: int, receiver: int, term: int, prev: tuple[int, int], terms: list[int], commit: int = 0, **more: Any
):
    entries = tuple(Entry(each, 1, 1, f"{prev[0] + 1 + i}@{each}") for i, each in enumerate(terms))
    row = (*header(sender, receiver, term), more.pop("request", 1))
    return AppendEntries(*row, *prev, prev[0] + len(terms), commit, 0, (), entries, **more)


def fresh(nodes: int = 3) -> Group:
    """Nobody leads, no promise holds."""
    group = Group(nodes)
    group.now_us += 5000 * MS
    return group


def test_3_3_a_request_of_an_old_term_is_refused_with_the_own_term() -> None:
    group = fresh()
    group.elect(1)
    group.elect(2)
    reply = answer(group, 3, appended(1, 3, 1, (1, 1), [1]))
    assert isinstance(reply, AppendResponse) and not reply.ok and reply.term == 2
    assert group[3].log.last_index == 2


def test_3_3_a_leader_or_candidate_of_an_old_term_steps_down() -> None:
    group = fresh()
    group.elect(1)
    group.deliver(appended(2, 1, 5, (1, 1), []))
    assert (group[1].role, group[1].term, group[1].leader) == (Role.FOLLOWER, 5, 2)


def test_3_4_at_most_one_vote_per_term_also_over_a_restart() -> None:
    group = fresh()
    assert answer(group, 1, vote_request(2, 1, 4, (0, 0))).granted
    assert not answer(group, 1, vote_request(3, 1, 4, (0, 0))).granted
    group.crash(1)
    group.restart(1)
    group.now_us += 5000 * MS
    assert not answer(group, 1, vote_request(3, 1, 4, (0, 0))).granted
    assert answer(group, 1, vote_request(2, 1, 4, (0, 0))).granted, "the same vote again"


def test_3_4_a_vote_is_durable_before_it_is_given() -> None:
    group = fresh()
    group.deliver(vote_request(2, 1, 4, (0, 0)))
    ready = group[1].take_ready()
    assert ready is not None and HardState(4, NodeNumber(2), FOUNDER) in ready.records
    assert not ready.free and isinstance(ready.after[0], VoteResponse)


def test_3_4_a_real_vote_request_follows_the_record_of_its_term() -> None:
    group = fresh()
    group[1].campaign(group.now_us)
    group.settle()
    for ready in group.replicas[1].log:
        assert not any(isinstance(message, RequestVote) and not message.pre for message in ready.free)


def test_3_4_a_candidate_follows_the_leader_of_its_term() -> None:
    group = fresh()
    group[3].campaign(group.now_us)
    group.flush()
    group[3].step(group.now_us, appended(1, 3, 1, (0, 0), [1]))
    assert (group[3].role, group[3].leader, group[3].term) == (Role.FOLLOWER, 1, 1)


def test_3_4_deadlines_are_random_and_within_their_bounds() -> None:
    group = fresh(5)
    config = group[1].config
    deadlines = [group[node].election_us - 10_000_000 for node in range(1, 6)]
    assert len(set(deadlines)) == 5
    assert all(config.election_min_us <= deadline < config.election_max_us for deadline in deadlines)


def test_3_5_an_append_whose_previous_entry_differs_is_refused() -> None:
    group = fresh()
    group.deliver(appended(1, 3, 2, (0, 0), [1, 1, 2]))
    reply = answer(group, 3, appended(1, 3, 2, (3, 1), [2], request=2))
    assert (reply.ok, reply.index, reply.hint_term, reply.hint_index) == (False, 3, 2, 3)
    reply = answer(group, 3, appended(1, 3, 2, (7, 2), [2], request=3))
    assert (reply.ok, reply.hint_term, reply.hint_index) == (False, 0, 4)


def test_3_5_only_a_conflicting_suffix_is_truncated() -> None:
    group = fresh()
    answer(group, 3, appended(1, 3, 2, (0, 0), [1, 1, 1, 1]))
    answer(group, 3, appended(2, 3, 3, (1, 1), [1, 3]))
    assert [group[3].log.term(index) for index in range(1, 4)] == [1, 1, 3] and group[3].log.last_index == 3
    disk = group.replicas[3].disk
    assert [entry.term for entry in disk.entries] == [1, 1, 3], "truncation reaches the storage"


def test_3_5_the_hint_goes_back_a_whole_term() -> None:
    group = fresh()
    answer(group, 1, appended(2, 1, 4, (0, 0), [1, 1, 4, 4, 4]))
    answer(group, 3, appended(2, 3, 3, (0, 0), [1, 1, 2, 2, 2, 3, 3]))
    group.crash(2)
    group.now_us += 5000 * MS
    group[1].campaign(group.now_us)
    sent: list[str] = []
    group.trace = sent.append
    group.settle()
    sent = [line for line in sent if "1 -> 3: AppendEntries" in line]
    assert group[1].role == Role.LEADER and group[3].log.last_index == 6
    assert len(sent) <= 4, f"5 entries of 3 terms apart, found in {sent}"


def test_3_6_1_no_vote_for_a_log_that_is_behind() -> None:
    group = fresh()
    answer(group, 3, appended(1, 3, 2, (0, 0), [1, 2, 2]))
    group.now_us += 5000 * MS
    assert not answer(group, 3, vote_request(2, 3, 8, (2, 2))).granted, "shorter"
    assert not answer(group, 3, vote_request(2, 3, 9, (9, 1))).granted, "longer, of an older term"
    assert answer(group, 3, vote_request(2, 3, 10, (3, 2))).granted
    assert answer(group, 3, vote_request(1, 3, 11, (1, 3))).granted, "shorter, of a newer term"


def test_3_6_2_entries_of_old_terms_are_not_committed_by_counting() -> None:
    """Figure 3.7: a majority holds entry 2 of term 1, and still it may be overwritten."""
    group = Group(3)
    group.elect(1)
    group.cut |= {(1, 3), (3, 1), (2, 1)}
    group.propose(1, "old")
    group.settle()
    assert group[2].log.last_index == 2 and group[1].commit == 1
    group.cut.clear()
    group.crash(1)
    group.restart(1)
    group.now_us += 5000 * MS
    group[1].campaign(group.now_us)
    while group[1].role != Role.LEADER:
        group.exchange()
    group.take(1)
    group.persist(1)
    for peer in (2, 3):
        row = (*header(peer, 1, 2), group[1].peers[peer].request)
        group[1].step(group.now_us, AppendResponse(*row, True, 2))
    group.take(1)
    assert group[1].commit == 0, "a majority has it, but it is of term 1"
    group.network.clear()
    group.run(1000 * MS)
    assert group[1].commit >= 3


def test_3_6_2_a_new_leader_appends_an_entry_of_its_own() -> None:
    group = fresh()
    group.elect(2)
    assert group[2].log.last_term == group[2].term and group[2].commit == group[2].log.last_index


def test_3_7_a_request_that_comes_twice_changes_nothing_and_is_answered_alike() -> None:
    group = Group(3)
    group.elect(1)
    group[1].propose(group.now_us, 1, b"x")
    group.flush()
    twice = [message for message in group.network if isinstance(message, AppendEntries) and message.receiver == 2]
    assert len(twice) == 1
    group.settle()
    before = (group[2].log.last_index, group[2].term, group[2].commit)
    group.deliver(twice[0])
    group.flush()
    (answer,) = [message for message in group.network if message.sender == 2]
    assert isinstance(answer, AppendResponse) and (answer.ok, answer.index) == (True, twice[0].last_index)
    group.settle()
    assert (group[2].log.last_index, group[2].term, group[2].commit) == before


def test_3_8_a_restart_keeps_term_vote_and_log() -> None:
    group = fresh()
    group.elect(1)
    group.propose(1, "a")
    group.settle()
    before = (group[2].term, group[2].vote, group[2].log.last_index)
    group.crash(2)
    raft = group.restart(2).raft
    assert (raft.term, raft.vote, raft.log.last_index) == before


def test_3_10_transfer_needs_the_whole_log() -> None:
    group = fresh()
    group.elect(1)
    group.cut.add((1, 2))
    group.propose(1, "a")
    group.settle()
    assert group[1].transfer(group.now_us, NodeNumber(2)) is None
    group.settle()
    assert not group[1].transfer_sent
    group.cut.clear()
    group.run(1000 * MS)
    assert group[2].role == Role.LEADER and group.data(2) == ["a"]


def test_4_1_a_configuration_holds_from_append() -> None:
    group = fresh()
    group.elect(1)
    group[1].propose_config(group.now_us, ConfigChange(demote=(NodeNumber(3),)))
    assert group[1].configs[-1][1].outgoing and [p.node for p in group[1].voter_peers] == [2]
    assert {p.node for p in group[1].outgoing_peers} == {2, 3}


def test_4_2_1_a_learner_is_promoted_only_after_it_caught_up() -> None:
    group = Group(1)
    group.elect(1)
    group.propose(1, "a")
    index, _ = group[1].propose_config(group.now_us, ConfigChange(add_learners=(NodeNumber(2),)))
    group.settle()
    promote = ConfigChange(promote=(NodeNumber(2),))
    assert group[1].propose_config(group.now_us, promote) == NotCaughtUp(NodeNumber(2))
    group.advance(2500 * MS)  # a round longer than an election does not count
    group.network.clear()
    group.add(2, index)
    group.run(1000 * MS)
    assert isinstance(group[1].propose_config(group.now_us, promote), tuple)
    group.run(1000 * MS)
    assert [member.node for member in group[2].configs[-1][1].voters] == [1, 2]


def test_4_2_1_a_learner_does_not_count() -> None:
    group = Group(3)
    group.elect(1)
    group[1].propose_config(group.now_us, ConfigChange(add_learners=(NodeNumber(4),)))
    group.add(4, 2)
    group.settle()
    group.cut |= {(1, 2), (1, 3)}
    group.propose(1, "a")
    group.settle()
    assert group[4].log.last_index == group[1].log.last_index and group[1].commit == 2
    for _ in range(20):
        group.advance(500 * MS)
    assert group[4].role == Role.FOLLOWER, "a learner does not campaign"


def test_4_2_2_a_leader_outside_the_new_configuration_does_not_count_itself_and_steps_down_at_its_commit() -> None:
    group = Group(3)
    group.elect(1)
    group.cut |= {(1, 3), (3, 1)}
    group[1].propose_config(group.now_us, ConfigChange(remove=(NodeNumber(1),)))
    group.settle()
    assert group[1].role == Role.LEADER and group[1].commit == 1, "of the new set {2, 3} only 2 has it"
    group.cut.clear()
    group.run(1000 * MS)
    assert group[1].role == Role.FOLLOWER and group[1].removed and group[1].commit == 3
    assert group.leader.node in (2, 3)


def test_4_2_2_a_replica_votes_and_replicates_whatever_it_believes_of_its_membership() -> None:
    """One voter promotes node 2, commits, and dies before node 2 hears of it: its vote is needed all the same."""
    group = Group(1)
    group.elect(1)
    index, _ = group[1].propose_config(group.now_us, ConfigChange(add_learners=(NodeNumber(2),)))
    group.add(2, index)
    group.settle()
    group.cut.add((1, 2))
    group[1].propose_config(group.now_us, ConfigChange(promote=(NodeNumber(2),)))
    group.settle()
    assert not group[2].voter_self and group[1].configs[-1][1].outgoing
    group.crash(1)
    group.cut.clear()
    group.restart(1)
    group.run(8000 * MS)
    assert group[1].role == Role.LEADER and group[2].voter_self


def test_4_2_3_no_term_and_no_vote_is_taken_while_a_leader_is_heard() -> None:
    group = Group(3)
    group.elect(1)
    group.run(500 * MS)
    for node in (1, 2):
        reply = answer(group, node, vote_request(3, node, 50, (99, 49)))
        assert not reply.granted and group[node].term == 1
    assert answer(group, 2, vote_request(3, 2, 50, (99, 49), transfer=True)).granted, "the leader asked for it"


@pytest.mark.parametrize("missing", [(2, 3), (4, 5)])
def test_4_3_a_joint_configuration_needs_both_majorities(missing: tuple[int, int]) -> None:
    """{1, 2, 3} → {1, 4, 5}: each set lacks its majority once, while the other has its."""
    group = Group(3)
    group.elect(1)
    for node in (4, 5):
        index, _ = group[1].propose_config(group.now_us, ConfigChange(add_learners=(NodeNumber(node),)))
        group.add(node, index)
        group.settle()
    change = ConfigChange(promote=(NodeNumber(4), NodeNumber(5)), remove=(NodeNumber(2), NodeNumber(3)))
    group.cut |= {(1, node) for node in missing}
    commit = group[1].commit
    assert isinstance(group[1].propose_config(group.now_us, change), tuple)
    group.settle()
    assert group[1].commit == commit
    group.now_us += 950 * MS
    group.beat()
    assert not group[1].lease_valid(group.now_us), "nor a lease"
    group.cut.clear()
    group.run(1000 * MS)
    assert group[1].configs[-1][1].outgoing == () and group[1].commit == group[1].log.last_index


def test_4_3_any_leader_finishes_a_joint_configuration() -> None:
    group = Group(4)
    group.elect(1)
    group[1].propose_config(group.now_us, ConfigChange(demote=(NodeNumber(4),)))
    group.exchange()
    group.flush()
    group.crash(1)
    group.elect(2)
    group.run(500 * MS)
    index, configuration = group[2].configs[-1]
    assert not configuration.outgoing and index <= group[2].commit
    assert [member.node for member in configuration.learners] == [4]


def test_5_a_snapshot_discards_a_log_of_another_history() -> None:
    group = Group(5)
    group.elect(1)
    group.cut |= {(1, 2), (1, 4), (1, 5)}
    for item in ("x1", "x2", "x3", "x4"):
        group.propose(1, item)
    group.settle()
    assert (group[3].log.last_index, group[3].commit) == (5, 1)
    group.crash(1)
    group.cut = {(n, 3) for n in (2, 4, 5)} | {(3, n) for n in (2, 4, 5)}
    group.elect(2)
    group.propose(2, "b")
    group.settle()
    offer_of(group, 2, 3, 3)
    assert (group[3].log.mark_index, group[3].log.last_index, group[3].commit) == (3, 3, 3)


def offered_a_snapshot() -> tuple[Group, InstallSnapshot]:
    """{1, 2, 3} led by 1, whose log begins behind entry 4, of which 3 has nothing; and the offer that 3 got."""
    group = Group(3)
    group.elect(1)
    group.cut |= {(1, 3)}
    for item in "abc":
        group.propose(1, item)
    group.settle()
    group.replicas[1].disk.compact(4, group[1].configuration_at(4))
    group[1].compacted(4)
    group.cut.clear()
    group.run(500 * MS)
    assert group[1].offer_snapshot(group.now_us, NodeNumber(3), 4, 1) is None
    group.settle()
    offer = next(event.offer for event in group.replicas[3].events if isinstance(event, SnapshotOffered))
    return group, offer


def offer_of(group: Group, leader: int, member: int, index: int) -> None:
    """A snapshot up to index, offered and installed by hand."""
    raft = group[leader]
    entry, configuration = raft.configuration_at(index)
    row = (*header(leader, member, raft.term), 1)
    offer = InstallSnapshot(*row, index, raft.log.term(index), entry, configurations.encode(configuration))
    group.deliver(offer)
    group[member].snapshot_installed(group.now_us, offer)
    group.check(member)
    group.take(member)


def test_5_a_snapshot_keeps_what_follows_it_in_the_same_history() -> None:
    group = Group(3)
    group.elect(1)
    group.propose(1, "a")
    group.settle()
    group.propose(1, "b")
    group.propose(1, "c")
    group.exchange()
    group.cut.add((1, 3))
    assert (group[3].log.last_index, group[3].commit) == (4, 2)
    group.settle()
    offer_of(group, 1, 3, 3)
    assert (group[3].log.mark_index, group[3].log.last_index) == (3, 4)
    assert group.replicas[3].disk.last == 4


def test_6_2_a_leader_without_a_quorum_steps_down() -> None:
    group = Group(5)
    group.elect(1)
    group.run(500 * MS)
    group.cut |= {(1, n) for n in (3, 4, 5)}
    group.run(3000 * MS)
    assert group[1].role != Role.LEADER
    assert isinstance(group.propose(1, "x"), NotLeader)


def test_6_2_a_leader_with_a_quorum_stays() -> None:
    group = Group(5)
    group.elect(1)
    group.cut |= {(1, n) for n in (4, 5)}
    group.run(8000 * MS)
    assert group[1].role == Role.LEADER and group[1].term == 1


@pytest.mark.parametrize("lease_us", [0, 900_000])
def test_6_4_reads_see_every_write_committed_before_them(lease_us: int) -> None:
    group = Group(3, lease_us=lease_us)
    group.elect(1)
    group.run(300 * MS)
    index, _ = group.propose(1, "a")
    group.settle()
    assert group[1].read(group.now_us, "r") is None
    group.run(300 * MS)
    (state,) = group.replicas[1].reads
    assert state.index >= index and state.lease == bool(lease_us)


def test_6_4_no_read_before_the_first_own_commit() -> None:
    group = Group(3)
    group.elect(1)
    group.crash(1)
    group.now_us += 5000 * MS
    group[2].campaign(group.now_us)
    group.cut |= {(2, 1)}
    while group[2].role != Role.LEADER:
        group.exchange()
    group.beat()
    assert not group[2].lease_valid(group.now_us)
    group[2].read(group.now_us, "early")
    group.take(2)
    assert group.replicas[2].reads == []
    group.settle()
    assert group.replicas[2].reads[0].index == group[2].noop_index


def test_6_4_contact_from_before_the_read_does_not_answer_it() -> None:
    group = Group(3)
    group.elect(1)
    group.beat()
    group.now_us += 950 * MS
    group[1].read(group.now_us, "late")
    for lanes in (group.replicas[1].lanes,):
        lanes.acked = {2: group.now_us - 1, 3: group.now_us - 1}
    group[1].contact(group.now_us)
    group.take(1)
    assert group.replicas[1].reads == []
    group.replicas[1].lanes.acked[2] = group.now_us
    group[1].contact(group.now_us)
    group.take(1)
    assert [read.context for read in group.replicas[1].reads] == ["late"]


def test_6_4_1_a_voter_gives_no_vote_before_its_promise_ends() -> None:
    """The lease rests on it; so does the own vote."""
    group = Group(3)
    group.elect(1)
    group.beat()
    promised_us = group[2].contacts.promised_us()
    group.replicas[2].lanes.heard.clear()
    for at_us, granted in ((promised_us - 1, False), (promised_us, True)):
        group.now_us = at_us
        assert answer(group, 2, vote_request(3, 2, 9, (9, 9))).granted == granted
    group.now_us = promised_us - 1
    group[3].tick(group.now_us)
    assert group[3].role == Role.FOLLOWER


def test_6_4_1_an_earlier_process_may_have_promised() -> None:
    group = Group(3)
    group.elect(1)
    group.crash(3)
    raft = group.restart(3).raft
    fence_us = group.now_us + raft.config.fence_us
    group.now_us = fence_us - 1
    assert not answer(group, 3, vote_request(2, 3, 9, (9, 9))).granted
    raft.tick(group.now_us)
    assert raft.role == Role.FOLLOWER
    group.now_us = fence_us
    assert answer(group, 3, vote_request(2, 3, 9, (9, 9))).granted


def test_6_4_1_a_sole_voter_needs_no_fence() -> None:
    group = Group(1)
    group.elect(1)
    group.propose(1, "a")
    group.settle()
    group.crash(1)
    group.replicas[1].disk.applied = 2
    group.restart(1)
    group.advance(1)
    group.settle()
    assert group[1].role == Role.LEADER and group[1].term == 2


def test_6_4_1_a_sole_voter_whose_configuration_is_not_committed_needs_the_fence() -> None:
    """The leader it promised to may be outside: {1, 2} → {2}, led by 1, whose lease rests on 2."""
    group = Group(2)
    group.elect(1)
    group[1].propose_config(group.now_us, ConfigChange(remove=(NodeNumber(1),)))
    for _ in range(3):
        group.exchange()
    assert not group[2].configs[-1][1].outgoing and group[2].commit < group[2].configs[-1][0]
    group.flush()
    group.crash(2)
    raft = group.restart(2).raft
    assert raft.fence_us > group.now_us and raft.next_deadline_us() != group.now_us


def test_9_6_pre_vote_changes_nothing_at_the_voter() -> None:
    group = fresh()
    before = (group[1].term, group[1].vote, group[1].election_us)
    assert answer(group, 1, vote_request(2, 1, 7, (0, 0), pre=True)).granted
    assert answer(group, 1, vote_request(3, 1, 7, (0, 0), pre=True)).granted, "it is no vote"
    assert (group[1].term, group[1].vote, group[1].election_us) == before


def test_9_6_a_pre_candidate_does_not_raise_its_term() -> None:
    group = fresh()
    group.cut |= {(1, 2), (1, 3)}
    for _ in range(10):
        group.advance(1000 * MS)
        group.network.clear()
    assert group[1].term == 0


def test_10_2_1_a_leader_commits_by_the_disks_of_others_and_delivers_with_its_own() -> None:
    group = Group(3)
    group.elect(1)
    group.replicas[1].disk_stopped = True
    index, _ = group[1].propose(group.now_us, 1, b"x")
    group.settle()
    assert group[1].commit == index > group[1].durable == group[1].delivered
    group.replicas[1].disk_stopped = False
    group.persist(1)
    group.settle()
    assert group[1].delivered == index
