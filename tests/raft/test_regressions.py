"""What went wrong in another implementation (a study of its behaviour is where the list comes from), and may not here.

Stale answers believed, acknowledgements of what was never compared, entries delivered twice, snapshots without bytes:
each test names the defect and shows the case that exposed it.
"""

import msgspec
import pytest

from nodedb_node.ids import NodeNumber
from nodedb_node.raft.messages import (
    AppendEntries,
    AppendResponse,
    ConfigChange,
    Entry,
    Halted,
    NotLeader,
    NotReady,
    Role,
    SnapshotResponse,
    VoteResponse,
)
from tests.raft.group import MS, Group, header
from tests.raft.test_thesis import answer, appended, fresh, offer_of, offered_a_snapshot, vote_request

# ---- stale answers ----


def test_a_vote_of_an_older_term_does_not_elect() -> None:
    group = fresh()
    group[1].campaign(group.now_us)
    group.exchange()
    group.exchange()
    group.flush()
    assert (group[1].role, group[1].term) == (Role.CANDIDATE, 1)
    old = VoteResponse(*header(2, 1, 1), group[1].request, False, True)
    group.network.clear()
    group.now_us += 5000 * MS
    group[1].campaign(group.now_us)
    group[1].step(group.now_us, VoteResponse(*header(2, 1, 1), group[1].request, True, True))
    assert (group[1].role, group[1].term) == (Role.CANDIDATE, 2)
    for stale in (old, msgspec.structs.replace(old, request=group[1].request)):
        group[1].step(group.now_us, stale)
        assert group[1].role == Role.CANDIDATE


def test_an_acknowledgement_of_an_older_term_does_not_commit() -> None:
    group = Group(3)
    group.elect(1)
    group.cut |= {(1, 2), (1, 3)}
    for item in "abcd":
        group.propose(1, item)
    group.settle()
    old = AppendResponse(*header(2, 1, 1), group[1].peers[NodeNumber(2)].request, True, 5)
    group.crash(1)
    group.restart(1)
    group.cut.clear()
    group.now_us += 5000 * MS
    group[1].campaign(group.now_us)
    while group[1].role != Role.LEADER:
        group.exchange()
    group.flush()
    for request in range(10):
        group[1].step(group.now_us, msgspec.structs.replace(old, request=request))
    group.flush()
    assert group[1].commit == 0 and group[1].peers[NodeNumber(2)].match == 0


def test_an_answer_to_a_request_never_made_is_dropped() -> None:
    group = Group(3)
    group.elect(1)
    group.propose(1, "a")
    group.flush()
    before, drops = group[1].peers[NodeNumber(2)].match, group[1].drops
    for request in (0, 999):
        group[1].step(group.now_us, AppendResponse(*header(2, 1, 1), request, True, 2))
    assert group[1].peers[NodeNumber(2)].match == before and group[1].drops == drops + 2


def test_an_answer_of_a_member_s_earlier_process_is_dropped() -> None:
    group = Group(3)
    group.elect(1)
    group.propose(1, "a")
    group.flush()
    request = group[1].peers[NodeNumber(2)].request
    group[1].peer_restarted(group.now_us, NodeNumber(2))
    group[1].step(group.now_us, AppendResponse(*header(2, 1, 1), request, True, 2))
    assert group[1].peers[NodeNumber(2)].match == 0


def test_a_stale_refusal_does_not_move_next_back() -> None:
    group = Group(3)
    group.elect(1)
    group.propose(1, "a")
    group.settle()
    peer = group[1].peers[NodeNumber(2)]
    before = (peer.match, peer.next)
    for request in range(peer.request + 1):
        group[1].step(group.now_us, AppendResponse(*header(2, 1, 1), request, False, 1, 0, 1))
    assert (peer.match, peer.next) == before


def overtaken() -> tuple[Group, AppendResponse, AppendResponse]:
    """An entry, and behind it the append that tells its commit, reach node 3 the other way round: its two answers."""
    group = Group(3)
    group.elect(1)
    group.run(500 * MS)
    group.propose(1, "a")
    group.flush()
    entry = next(message for message in group.network if message.receiver == 3)
    group.network.remove(entry)
    group.exchange()  # to node 2
    group.exchange()  # and its acknowledgement back
    group.flush()
    (commit,) = [message for message in group.network if message.receiver == 3]
    refusal = answer(group, 3, commit)
    accepted = answer(group, 3, entry)
    assert not refusal.ok and (accepted.ok, accepted.index) == (True, 2)
    assert (group[1].commit, group[3].commit) == (2, 1)
    return group, refusal, accepted


def test_a_refusal_that_comes_after_what_it_missed_has_the_append_sent_again() -> None:
    """An idle group: the refused append told the commit, and nothing else would ever tell it."""
    group, refusal, accepted = overtaken()
    group.deliver(accepted)
    group.flush()
    group.deliver(refusal)
    group.settle()
    assert group[3].commit == 2 and group.data(3) == ["a"]


def test_a_refusal_and_what_it_missed_in_one_turn_have_the_append_sent_again() -> None:
    group, refusal, accepted = overtaken()
    group.deliver(refusal)
    group.deliver(accepted)
    group.settle()
    assert group[3].commit == 2 and group.data(3) == ["a"]


def test_a_late_refusal_of_entries_has_them_sent_again() -> None:
    """Nothing is committed by the acknowledgement: no other append follows that would find the gap."""
    group = Group(5)
    group.elect(1)
    group.run(500 * MS)
    group.cut |= {(1, 2), (1, 4), (1, 5)}
    appends = []
    for item in "ab":
        group.propose(1, item)
        group.flush()
        appends += group.network
        group.network = []
    refusal = answer(group, 3, appends[1])
    accepted = answer(group, 3, appends[0])
    assert not refusal.ok and (accepted.ok, accepted.index) == (True, 2)
    group.deliver(accepted)
    group.flush()
    group.deliver(refusal)
    group.settle()
    assert group[3].log.last_index == 3


def test_a_member_that_rejects_what_it_acknowledged_is_not_asked_without_end() -> None:
    group = Group(3)
    group.elect(1)
    group.cut |= {(1, 3)}
    group[1].reachable(group.now_us, NodeNumber(3))
    group.flush()
    peer, drops = group[1].peers[NodeNumber(3)], group[1].drops
    group.deliver(AppendResponse(*header(3, 1, 1), peer.request, False, peer.match, 0, 1))
    request = peer.request
    group.flush()
    assert (peer.request, group[1].drops) == (request, drops + 1)


# ---- what an answer says ----


def test_an_acknowledgement_names_what_was_compared_not_the_own_end() -> None:
    """A batch that matches a prefix: three entries behind it are of another history."""
    group = fresh()
    answer(group, 3, appended(1, 3, 2, (0, 0), [1, 2, 2, 2]))
    reply = answer(group, 3, appended(2, 3, 3, (0, 0), [1], commit=4))
    assert (reply.ok, reply.index) == (True, 1)
    assert group[3].commit == 1, "the leader's commit says nothing of entries it has not sent"
    assert group[3].log.last_index == 4


def test_a_heartbeat_acknowledges_no_more_than_its_previous_entry() -> None:
    group = fresh()
    answer(group, 3, appended(1, 3, 2, (0, 0), [1, 2, 2, 2]))
    reply = answer(group, 3, appended(2, 3, 3, (1, 1), [], commit=4))
    assert (reply.ok, reply.index, group[3].commit) == (True, 1, 1)


def test_entries_are_delivered_once_when_commit_moves_twice_before_a_turn() -> None:
    group = Group(3)
    group.elect(1)
    group.cut |= {(2, 1), (3, 1)}
    for item in "ab":
        group.propose(1, item)
        group.settle()
    raft = group[1]
    for index in (2, 3):
        raft.step(group.now_us, AppendResponse(*header(2, 1, 1), raft.peers[NodeNumber(2)].request, True, index))
    ready = raft.take_ready()
    assert ready is not None and ready.committed == (2, 3)
    following = [ready.committed for ready in (raft.take_ready(), raft.take_ready()) if ready is not None]
    assert following == [None] * len(following)


def test_delivery_goes_on_behind_the_durable_applied_index_after_a_restart() -> None:
    group = Group(3)
    group.elect(1)
    for item in "abc":
        group.propose(1, item)
    group.settle()
    group.replicas[3].disk.applied = 2
    group.crash(3)
    group.restart(3)
    group.run(500 * MS)
    first = next(ready.committed for ready in group.replicas[3].log if ready.committed)
    assert first[0] == 3 and group.data(3) == ["a", "b", "c"]


def test_applied_does_not_go_back() -> None:
    """A batch that was in flight while a snapshot was installed."""
    group = Group(3)
    group.elect(1)
    group.cut |= {(1, 3)}
    for item in "abcd":
        group.propose(1, item)
    group.settle()
    offer_of(group, 1, 3, 5)
    group[3].applied_to(1)
    assert group[3].applied == 5
    group.cut.clear()
    group.propose(1, "e")
    group.run(500 * MS)
    assert group[3].commit == 6 and group[3].delivered == 6, "delivery goes on"


# ---- snapshots ----


def test_an_offer_alone_moves_nothing() -> None:
    """Its bytes travel elsewhere: until the owner has them, applied stays."""
    group, offer = offered_a_snapshot()
    assert (group[3].applied, group[3].commit, group[3].log.mark_index) == (1, 1, 0)
    sent = group[1].peers[NodeNumber(3)].request
    group.run(1000 * MS)
    assert group[1].peers[NodeNumber(3)].request == sent, "no append meanwhile"
    group[3].snapshot_installed(group.now_us, offer)
    group.settle()
    assert (group[3].applied, group[1].peers[NodeNumber(3)].next) == (4, 5)


def test_a_delayed_append_from_before_a_snapshot_does_not_corrupt_the_order() -> None:
    group = Group(3)
    group.elect(1)
    late = appended(1, 3, 1, (0, 0), [1, 1])
    for item in "abcdefg":
        group.propose(1, item)
    group.cut |= {(1, 3)}
    group.settle()
    group.cut.clear()
    offer_of(group, 1, 3, 8)
    reply = answer(group, 3, late)
    assert (group[3].log.mark_index, group[3].log.last_index) == (8, 8)
    assert (reply.ok, reply.index) == (True, 2), "all of it is committed here"


def test_a_snapshot_that_drops_the_log_drops_its_configurations() -> None:
    """Found by a random walk: the entry was gone, its configuration stayed in force."""
    group = Group(5)
    group.elect(1)
    group.cut |= {(1, n) for n in (2, 4, 5)}
    group.propose(1, "x")
    group[1].propose_config(group.now_us, ConfigChange(add_learners=(NodeNumber(6),)))
    group.settle()
    assert group[3].configs[-1][0] == 3
    group.crash(1)
    group.cut = {(n, 3) for n in (2, 4, 5)} | {(3, n) for n in (2, 4, 5)}
    group.elect(2)
    offer_of(group, 2, 3, 2)
    assert group[3].log.last_index == 2 and group[3].configs == [(0, group[2].configs[0][1])]


def test_a_snapshot_that_commit_has_passed_is_not_delivered_again() -> None:
    """Found by the simulator: known committed, not durable here, and then installed with a snapshot."""
    group = Group(3)
    group.elect(1)
    group.replicas[3].disk_stopped = True
    for item in "abcd":
        group.propose(1, item)
    group.settle()
    assert (group[3].commit, group[3].delivered) == (5, 1)
    offer_of(group, 1, 3, 4)
    assert (group[3].commit, group[3].delivered, group[3].log.last_index) == (5, 4, 5)
    group.replicas[3].disk_stopped = False
    group.settle()
    delivered = [ready.committed for ready in group.replicas[3].log if ready.committed]
    assert delivered == [(1, 1), (5, 5)] and group.data(3) == ["a", "b", "c", "d"]


def test_the_configuration_travels_in_the_snapshot() -> None:
    group = Group(3)
    group.elect(1)
    group.cut |= {(1, 3)}
    group[1].propose_config(group.now_us, ConfigChange(add_learners=(NodeNumber(4),)))
    group.settle()
    offer_of(group, 1, 3, 2)
    assert group[3].configs == [(2, group[1].configs[-1][1])]
    group.flush()
    group.crash(3)
    assert group.restart(3).raft.configs == [(2, group[1].configs[-1][1])]


def test_an_old_leader_s_offer_is_refused_by_term() -> None:
    group = Group(3)
    group.elect(1)
    raft = group[1]
    group.elect(2)
    offer = msgspec.structs.replace(
        offer_made(group, 2, 3), sender=NodeNumber(1), term=1, snapshot_index=raft.log.last_index
    )
    reply = answer(group, 3, offer)
    assert isinstance(reply, SnapshotResponse) and not reply.ok and reply.term == 2


def offer_made(group: Group, leader: int, member: int):  # type: ignore[no-untyped-def]
    from nodedb_node.raft import configuration as configurations
    from nodedb_node.raft.messages import InstallSnapshot

    raft = group[leader]
    config = configurations.encode(raft.configs[-1][1])
    return InstallSnapshot(*header(leader, member, raft.term), 1, 1, 1, 0, config)


# ---- roles ----


def test_stepping_down_in_the_same_term_keeps_the_vote() -> None:
    group = fresh()
    group[1].campaign(group.now_us)
    group.exchange()
    group.exchange()
    assert group[1].role == Role.CANDIDATE
    group[1].step(group.now_us, appended(2, 1, 1, (0, 0), [1]))
    assert (group[1].role, group[1].term, group[1].vote) == (Role.FOLLOWER, 1, 1)
    assert not answer(group, 1, vote_request(3, 1, 1, (9, 9))).granted


def test_a_deposed_leader_does_not_name_itself() -> None:
    group = Group(3)
    group.elect(1)
    group[1].step(group.now_us, AppendResponse(*header(2, 1, 7), 1, False, 1))
    assert group.propose(1, "x") == NotLeader(NodeNumber(0))


@pytest.mark.parametrize("victim", [1, 3])
def test_a_second_leader_of_one_term_halts_the_group_not_the_worker(victim: int) -> None:
    group = Group(3)
    group.elect(1)
    group.propose(1, "a")
    group.deliver(appended(2, victim, 1, (1, 1), [1]))
    ready = group[victim].take_ready()
    assert ready is not None
    (halted,) = (event for event in ready.events if isinstance(event, Halted))
    assert "leads term 1" in halted.why and "log 0/0.." in halted.dump
    assert not ready.after and not ready.free and ready.committed is None
    assert isinstance(group.propose(victim, "b"), NotReady)
    assert group[victim].next_deadline_us() is None
    group.deliver(appended(1, victim, 9, (0, 0), [1]))
    assert group[victim].term == 1 and group[victim].take_ready() is None


def test_a_leader_that_contradicts_what_is_committed_halts_the_group() -> None:
    group = Group(3)
    group.elect(1)
    group.propose(1, "a")
    group.settle()
    group.deliver(appended(2, 3, 4, (1, 1), [4]))
    assert group[3].halted and group[3].log.term(2) == 1


def test_an_unknown_kind_of_entry_stops_the_group_before_it_is_taken() -> None:
    group = Group(3)
    group.elect(1)
    strange = msgspec.structs.replace(appended(1, 3, 1, (1, 1), [1]), entries=(Entry(1, 77, 1, b"?"),))
    group.deliver(strange)
    ready = group[3].take_ready()
    assert ready is not None and not ready.records
    assert "unknown kind 77" in next(event.why for event in ready.events if isinstance(event, Halted))


def test_an_unknown_kind_in_the_own_log_stops_the_group_at_the_start() -> None:
    group = Group(3)
    group.replicas[1].disk.entries.append(Entry(1, 77, 1, b"?"))
    group.crash(1)
    assert group.restart(1).raft.halted


def test_replicas_do_not_share_their_first_deadline() -> None:
    group = Group(3)
    assert len({group[node].next_deadline_us() for node in (1, 2, 3)}) == 3


def test_the_winner_starts_above_its_voters_bounds() -> None:
    group = fresh()
    group[2].raise_bound(900)
    group[3].raise_bound(900)
    group.elect(1)
    assert group[1].bound == 900


def test_a_replica_that_came_back_to_an_idle_group_learns_who_leads() -> None:
    """Found by a script: same term, nothing to append, and the lane's heartbeat says who leads."""
    group = Group(3)
    group.elect(1)
    group.run(500 * MS)
    group.cut |= {(3, n) for n in (1, 2)} | {(n, 3) for n in (1, 2)}
    group.run(4000 * MS)
    assert group[3].leader == 0 and group[3].term == 1
    group.cut.clear()
    group.run(3000 * MS)
    assert group[3].leader == 1 and group[1].term == 1


# ---- bounds ----


def test_a_thousand_proposals_of_a_turn_are_one_append_per_member() -> None:
    group = Group(3)
    group.elect(1)
    for number in range(1000):
        group.propose(1, f"p{number}")
    ready = group.take(1)
    assert ready is not None and len(ready.free) == 2 and len(ready.records) == 1
    group.settle()
    assert group[3].commit == 1001


def test_an_append_is_bounded_by_bytes_and_one_large_entry_still_travels() -> None:
    group = Group(3, batch_bytes_max=100, inflight_bytes_max=200, inflight_messages_max=8)
    group.elect(1)
    for size in (60, 60, 500, 10):
        group.propose(1, f"s{size}", size)
    group.settle()
    batches = [
        m for ready in group.replicas[1].log for m in ready.free if isinstance(m, AppendEntries) and m.receiver == 2
    ]
    assert all(m.last_index - m.prev_index <= 1 for m in batches)
    assert group.data(2) == ["s60", "s60", "s500", "s10"]


def test_proposals_above_the_bound_are_refused_as_busy() -> None:
    group = Group(3, uncommitted_bytes_max=1 << 20, inflight_bytes_max=1 << 20)
    group.elect(1)
    group.cut |= {(1, 2), (1, 3)}
    results = [type(group.propose(1, "x", 300_000)).__name__ for _ in range(5)]
    assert results == ["tuple", "tuple", "tuple", "Busy", "Busy"]


def test_waiting_reads_are_bounded() -> None:
    group = Group(3, reads_max=2, lease_us=0)
    group.elect(1)
    group.now_us += 10
    assert [type(group[1].read(group.now_us, n)).__name__ for n in range(3)] == ["NoneType", "NoneType", "Busy"]


def test_a_member_that_is_down_does_not_delay_the_repair_of_another() -> None:
    """3 is dead, and asked again once per election; an append to 2 is lost right after that."""
    group = Group(3)
    group.elect(1)
    group.crash(3)
    group.propose(1, "a")
    dead, config = group[1].peers[NodeNumber(3)], group[1].config
    while dead.retry_us < config.election_max_us or group[1].retry_us < group.now_us + config.election_max_us // 2:
        group.run(100 * MS)
    group.propose(1, "b")
    group.flush()
    group.network.clear()
    group.advance(2 * config.heartbeat_us)
    group.settle()
    assert group[1].commit == group[1].log.last_index
