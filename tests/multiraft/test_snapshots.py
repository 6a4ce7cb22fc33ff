"""A member whose entries are compacted away gets them as a snapshot: MultiRaft on both sides, files and real stores."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from nodedb_node.ids import GroupId, NodeNumber
from nodedb_node.multiraft import books
from nodedb_node.multiraft.snapshot.desk import Desk
from nodedb_node.multiraft.snapshot.limits import SnapshotLimits
from nodedb_node.multiraft.snapshot.messages import Accept, Chunk, Done, Offer, Reason, Refusal
from nodedb_node.multiraft.snapshot.receiver import Discard
from nodedb_node.raft.messages import NOOP, Entry, InstallSnapshot, Reset
from nodedb_node.raft.progress import Flow
from nodedb_node.storage.transfers import SnapshotFiles
from tests.multiraft.cluster import Cluster, Process
from tests.storage.rows import contents, fill, keys_of_group, open_store, vshards_of

GROUP = GroupId(3)
LIMITS = SnapshotLimits(chunk_bytes=10_000, window_chunks=3)


class Stored(Cluster):
    """Every process has a store and a directory of snapshots."""

    def __init__(self, path: Path, closing: ExitStack) -> None:
        self.bulk: list[tuple[int, int, list[Any]]] = []
        self.moved: list[Any] = []  # all messages of the bulk lanes
        self.path, self.desks = path, {}
        self.stores = {n: closing.enter_context(open_store(path / f"store-{n}", [GROUP])) for n in (1, 2, 3)}
        super().__init__(3, GROUP + 1, snapshots=LIMITS)
        for process in self.processes.values():
            self.open_desk(process)

    def open_desk(self, process: Process) -> None:
        files = SnapshotFiles(str(self.path / f"files-{process.node}"), self.stores[process.node], vshards_of)
        self.desks[process.node] = Desk(files, process.multi)
        self.desks[process.node].restore(self.now_us)

    def pump(self, process: Process) -> None:
        seen = len(process.turns)
        super().pump(process)
        desk = self.desks.get(process.node)
        for turn in process.turns[seen:]:
            assert desk is not None or not turn.work
            if desk is not None:
                desk.take(turn.work)
            self.bulk += [(process.node, peer, messages) for peer, messages in turn.bulk.items()]
        while desk is not None and desk.step(self.now_us):
            pass

    def deliver(self) -> None:
        bulk, self.bulk = self.bulk, []
        for sender, receiver, messages in bulk:
            if (sender, receiver) not in self.cut:
                self.moved += messages
                self.processes[NodeNumber(receiver)].multi.step_bulk(self.now_us, NodeNumber(sender), messages)
        super().deliver()

    def store(self, process: Process, group: int, record: Any) -> None:
        if isinstance(record, Reset):
            process.entries[group] = [Entry(record.term, NOOP, 0)] * record.index
            process.committed[group] = record.index
        else:
            super().store(process, group, record)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Stored]:
    with ExitStack() as closing:
        made = Stored(tmp_path, closing)
        made.until(made.led)
        yield made
        for desk in made.desks.values():
            desk.close()


def leave_behind(cluster: Stored) -> tuple[Process, Process, int]:
    """(leader, the member that was cut off, index that the leader's checkpoint holds and its log forgot)."""
    number = cluster.leader(GROUP)
    assert number is not None
    leader = cluster.processes[NodeNumber(number)]
    behind = next(process for node, process in cluster.processes.items() if node != number)
    cluster.isolate(behind.node)
    for i in range(40):
        cluster.propose(GROUP, b"%d" % i)
    cluster.until(lambda: leader.committed[GROUP] == len(leader.entries[GROUP]) > 40)
    raft, index = leader.multi.raft(GROUP), leader.committed[GROUP]
    pairs = [(key, b"value" * 1000) for key in keys_of_group(GROUP, 30)]
    state = books.carried_bytes(books.Carried(term=raft.term))
    fill(cluster.stores[leader.node], GROUP, pairs, index, state=state, term=raft.term)
    leader.multi.compacted({GROUP: (index, raft.term)})
    return leader, behind, index


def test_a_member_left_behind_gets_the_rows_and_goes_on_with_the_log(cluster: Stored) -> None:
    leader, behind, index = leave_behind(cluster)
    cluster.heal()
    cluster.until(lambda: behind.committed[GROUP] >= index)
    store = cluster.stores[behind.node]
    assert store.group(GROUP).applied_index == index
    assert contents(store, GROUP) == contents(cluster.stores[leader.node], GROUP)
    row = books.carried_of(store.group(GROUP).state, books.Configuration())
    assert row.installed and books.configurations.decode(row.configuration) is not None
    cluster.until(lambda: any(isinstance(message, Done) for message in cluster.moved))
    assert sum(isinstance(message, Chunk) for message in cluster.moved) > 10
    assert not list((cluster.path / f"files-{behind.node}").iterdir()), "what arrived is needed no more"
    last, _ = cluster.propose(GROUP, b"next")
    cluster.until(lambda: behind.committed[GROUP] == last)


def test_a_member_that_restarts_half_way_goes_on_where_it_was(cluster: Stored) -> None:
    _, behind, index = leave_behind(cluster)
    cluster.heal()
    cluster.until(lambda: sum(isinstance(message, Chunk) for message in cluster.moved) > 4)
    cluster.desks.pop(behind.node).close()
    cluster.restart(behind.node)
    cluster.open_desk(behind)
    cluster.moved.clear()
    cluster.until(lambda: behind.committed[GROUP] >= index, us=60_000_000)
    numbers = sorted({message.number for message in cluster.moved if isinstance(message, Chunk)})
    assert numbers[0] >= 2, "the first ones are there already"


def test_a_member_whose_lane_is_down_is_sent_nothing_and_served_when_it_is_back(cluster: Stored) -> None:
    leader, behind, index = leave_behind(cluster)
    cluster.heal()
    cluster.until(lambda: sum(isinstance(message, Chunk) for message in cluster.moved) > 4)
    cluster.isolate(behind.node)
    leader.multi.lane_down(cluster.now_us, behind.node)
    cluster.run(10_000_000)
    assert not leader.multi._transfers._sender.manifests()
    cluster.heal()
    cluster.moved.clear()
    leader.multi.lane_up(cluster.now_us, behind.node, behind.generation)
    cluster.until(lambda: behind.committed[GROUP] >= index, us=3_000_000)
    numbers = sorted({message.number for message in cluster.moved if isinstance(message, Chunk)})
    assert numbers[0] >= 2, "the first ones are there already"


def test_a_partial_that_the_group_has_passed_by_the_log_is_discarded(cluster: Stored) -> None:
    leader, behind, index = leave_behind(cluster)
    cluster.heal()
    cluster.until(lambda: sum(isinstance(message, Chunk) for message in cluster.moved) > 4)
    offer = next(message for message in cluster.moved if isinstance(message, Offer))
    transfers = behind.multi._transfers
    assert transfers._receiver.partials() == [(GROUP, index)]
    behind.multi.raft(GROUP).applied = index  # as the next leader's log had it
    behind.multi.step_bulk(cluster.now_us, leader.node, [offer])
    turn = behind.multi.take_turn(cluster.now_us)
    assert turn is not None and turn.work == [Discard(offer.manifest)]
    assert turn.bulk == {leader.node: [Done(GROUP, offer.term, offer.transfer)]}


def test_no_snapshot_is_cut_for_a_member_that_has_no_lane(cluster: Stored) -> None:
    """It said where its log ends, and its lane went down at once."""
    leader, behind, _ = leave_behind(cluster)
    leader.multi.lane_down(cluster.now_us, behind.node)
    third = next(p for p in cluster.processes.values() if p not in (leader, behind))
    third.multi.lane_down(cluster.now_us, behind.node)
    third.multi.compacted({GROUP: (third.committed[GROUP], leader.multi.raft(GROUP).term)})
    assert leader.multi.transfer(cluster.now_us, GROUP, third.node) is None
    cluster.until(lambda: cluster.leader(GROUP) == third.node)
    third.multi.raft(GROUP).peers[behind.node].next = 1
    third.turns.clear()
    cluster.run(10_000_000)
    assert third.multi.raft(GROUP).peers[behind.node].flow is Flow.SNAPSHOT
    assert not any(turn.work for turn in third.turns)


def test_an_offer_that_raft_has_not_accepted_is_not_taken(cluster: Stored) -> None:
    leader, behind, index = leave_behind(cluster)
    cluster.heal()
    cluster.until(lambda: any(isinstance(message, Offer) for message in cluster.moved))
    offer = next(message for message in cluster.moved if isinstance(message, Offer))
    third = next(p for p in cluster.processes.values() if p not in (leader, behind))
    cluster.bulk.clear()
    behind.multi.step_bulk(cluster.now_us, third.node, [offer])
    behind.multi.step_bulk(cluster.now_us, leader.node, [Offer(GROUP, offer.term, 999, offer.manifest, offer.replica)])
    turn = behind.multi.take_turn(cluster.now_us)
    assert turn is None or not turn.work
    stale = Offer(GROUP, offer.term - 1, 5, offer.manifest, offer.replica)
    behind.multi.step_bulk(cluster.now_us, third.node, [stale])
    turn = behind.multi.take_turn(cluster.now_us)
    assert turn is not None
    assert turn.bulk == {third.node: [Refusal(GROUP, offer.term, 5, Reason.STALE_TERM)]}
    assert index == offer.manifest.index


@pytest.mark.parametrize("first", ["bulk", "raft"])
def test_an_offer_is_taken_at_once_whichever_lane_is_faster(cluster: Stored, first: str) -> None:
    """In one turn of the loop, or over a faster path: it was dropped, and offered again only after a stall."""
    leader, behind, index = leave_behind(cluster)
    cluster.heal()
    offers: list[InstallSnapshot] = []
    while not offers:
        cluster.step()
        offers = [message for _, _, frame in cluster.sent for message in frame if isinstance(message, InstallSnapshot)]
    cluster.until(lambda: any(isinstance(message, Offer) for message in cluster.moved))
    offer = next(message for message in cluster.moved if isinstance(message, Offer))
    cluster.restart(behind.node)  # and knows nothing of either
    cluster.bulk.clear()
    machine, now_us = behind.multi, cluster.now_us
    if first == "raft":
        machine.step(now_us, leader.node, [offers[-1]])
    machine.step_bulk(now_us, leader.node, [offer])
    if first == "bulk":
        machine.step(now_us, leader.node, [offers[-1]])
    while (turn := machine.take_turn(now_us)) is not None and not turn.bulk:
        pass
    assert turn is not None
    assert turn.bulk == {leader.node: [Accept(GROUP, offer.term, offer.transfer, 0)]}
    assert index == offer.manifest.index


def test_an_offer_to_another_replica_of_the_group_is_not_answered(cluster: Stored) -> None:
    """Found by the simulator (snapshots, 2756107971): the replica that was there before had all of it and said so; the
    sender was done, and the new one, which Raft offered it to next, waited for ever."""
    leader, behind, index = leave_behind(cluster)
    cluster.heal()
    cluster.until(lambda: behind.committed[GROUP] >= index, us=60_000_000)
    offer = next(message for message in cluster.moved if isinstance(message, Offer))
    behind.multi.step_bulk(cluster.now_us, leader.node, [structs.replace(offer, transfer=999, replica=77)])
    turn = behind.multi.take_turn(cluster.now_us)
    assert turn is None or not turn.bulk
    behind.multi.step_bulk(cluster.now_us, leader.node, [structs.replace(offer, transfer=999)])
    turn = behind.multi.take_turn(cluster.now_us)
    assert turn is not None and turn.bulk == {leader.node: [Done(GROUP, offer.term, 999)]}
