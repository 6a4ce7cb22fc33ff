"""Snapshots between the processes of all groups: a member's need becomes a cut, a transfer and an install. Pure.

The bytes' way is snapshot/sender.py's and receiver.py's; what Raft is told, and when, is here. Invariants: a transfer
lives and dies with the term in which it was started, and is taken only where Raft has accepted its offer from the same
leader; nothing is committed to a group while its install is out, so that an install never meets a newer state; Raft
hears of an install only when the store holds it durably. No file and no store is touched: Work says what to do.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from nodedb_node.ids import GroupId, NodeNumber
from nodedb_node.marks import mark
from nodedb_node.multiraft import books
from nodedb_node.multiraft.snapshot import receiver, sender
from nodedb_node.multiraft.snapshot.limits import SnapshotLimits
from nodedb_node.multiraft.snapshot.messages import Chunk, Manifest, Message, Offer, Reason
from nodedb_node.multiraft.snapshot.receiver import Discard, SnapshotReceiver
from nodedb_node.multiraft.snapshot.sender import Finished, Read, SnapshotSender
from nodedb_node.multiraft.snapshot.work import Cut, Install, Release, Work
from nodedb_node.raft import configuration as configurations
from nodedb_node.raft.core import Raft
from nodedb_node.raft.messages import InstallSnapshot, LogIndex, Micros, Role
from nodedb_node.raft.progress import SNAPSHOT

COUNT_BITS = 24  # a transfer's number counts on from a place of this life of the process
FIRST_BITS = 63  # of that place; the life's highest bits are left out, so that places come back after 2^19 starts

Committed = tuple[GroupId, LogIndex, LogIndex]


class Installing(NamedTuple):
    """The install of a group that is out, and Raft's offer that it answers."""

    manifest: Manifest
    offer: InstallSnapshot


class Transfers:
    """Of one process. `raft` is the group's, wherever it is asked for."""

    def __init__(
        self,
        limits: SnapshotLimits,
        generation: int,
        rafts: Mapping[GroupId, Raft],
        touch: Callable[[GroupId], None],
        now_us: Micros,
    ) -> None:
        """touch: called with each group whose Raft was told something."""
        self.changed = False  # something may be there to hand out
        self.installing: dict[GroupId, Installing] = {}
        self._limits, self._rafts, self._touch = limits, rafts, touch
        self._sender = SnapshotSender(limits, _first_number(generation), now_us)
        self._receiver = SnapshotReceiver(limits)
        self._up: set[NodeNumber] = set()  # peers with a lane
        self._wishes: dict[NodeNumber, dict[GroupId, None]] = {}  # in order; the member served last is last
        self._making: dict[GroupId, NodeNumber] = {}  # cuts that are out, and the member each is made for
        self._cuts: dict[GroupId, Manifest] = {}  # the newest of each group
        self._old: set[Manifest] = set()  # still read by transfers
        self._idle: dict[GroupId, Micros] = {}  # cuts that nobody needs now → since when
        self._not_before: dict[tuple[GroupId, NodeNumber], Micros] = {}  # the member said when to ask again
        self._announced: dict[GroupId, InstallSnapshot] = {}  # Raft's newest offer to the replica here
        self._early: dict[GroupId, tuple[NodeNumber, Offer]] = {}  # not announced yet, the newest of each group
        self._accepted: dict[GroupId, InstallSnapshot] = {}  # the one whose bytes are coming
        self._held: dict[GroupId, Committed] = {}  # committed meanwhile, one range
        self._work: list[Work] = []

    # ---- the leader: a member needs a snapshot ----

    def wanted(self, now_us: Micros, raft: Raft, peer: NodeNumber) -> None:
        self.changed = True
        group = raft.group
        self._sender.stop(now_us, group, peer)  # of an earlier wish: where it was is asked anew
        if now_us < self._not_before.get((group, peer), 0):
            self._failed(now_us, raft, peer)
        elif self._making.get(group) == peer or group in self._wishes.get(peer, ()):
            pass  # it has its place
        elif peer not in self._up or group in self._making or not self._start_again(now_us, raft, peer):
            self._wishes.setdefault(peer, {})[group] = None

    def _serve(self, now_us: Micros) -> None:
        """Ask for cuts whose transfers would go out at once: each is a file, and its rows are read from the store."""
        for peer in list(self._wishes):
            while peer in self._up and self._sender.would_admit(peer, self._making.values()):
                group = next((group for group in self._wishes[peer] if group not in self._making), None)
                if group is None:
                    break
                wishes = self._wishes.pop(peer)
                del wishes[group]
                self._wishes[peer] = wishes
                self._grant(now_us, self._rafts[group], peer)
            if not self._wishes[peer]:
                del self._wishes[peer]

    def _grant(self, now_us: Micros, raft: Raft, peer: NodeNumber) -> None:
        member = raft.peers.get(peer)
        if member is None or member.flow is not SNAPSHOT:
            mark("multi-snapshot-wish-of-the-past")
        elif not self._start_again(now_us, raft, peer):
            self._making[raft.group] = peer
            self._work.append(Cut(raft.group))

    def _start_again(self, now_us: Micros, raft: Raft, peer: NodeNumber) -> bool:
        """With the group's newest cut, if there is one that serves."""
        manifest = self._cuts.get(raft.group)
        if manifest is None or not _reaches(raft, manifest):
            return False
        mark("multi-snapshot-cut-again-used")
        self._start(now_us, raft, peer, manifest)
        return True

    def cut(self, now_us: Micros, group: GroupId, made: Manifest | None) -> None:
        """The answer to Cut. None: it could not be made."""
        self.changed = True
        peers, raft = self._wishing(group), self._rafts.get(group)
        manifest = None if made is None or raft is None else _with_configuration(raft, made)
        if manifest is None:
            mark("multi-snapshot-cut-failed")
            if made is not None:
                self._work.append(Release(made))
        else:
            self._replace(group, manifest)
        for peer in peers:
            assert raft is not None, "a group that is gone has nobody waiting"
            if manifest is None:
                self._failed(now_us, raft, peer)
            else:
                self._start(now_us, raft, peer, manifest)

    def _wishing(self, group: GroupId) -> list[NodeNumber]:
        """Who can be sent the cut that has just come; they wait no more."""
        first = [self._making.pop(group)] if group in self._making else []
        others = [peer for peer, wishes in self._wishes.items() if peer in self._up and group in wishes]
        for peer in others:
            del self._wishes[peer][group]
        return first + others

    def _failed(self, now_us: Micros, raft: Raft, peer: NodeNumber) -> None:
        """Raft asks again after a while."""
        raft.snapshot_failed(now_us, peer)
        self._touch(raft.group)

    def _replace(self, group: GroupId, manifest: Manifest) -> None:
        before = self._cuts.get(group)
        if before is not None and before != manifest:
            self._old.add(before)
        self._cuts[group] = manifest

    def _start(self, now_us: Micros, raft: Raft, peer: NodeNumber, manifest: Manifest) -> None:
        member = raft.peers.get(peer)
        if member is None:
            return  # no leader any more, or no member of its
        if peer not in self._up:
            mark("multi-snapshot-peer-went")
            self._failed(now_us, raft, peer)
            return
        number = self._sender.start(now_us, peer, member.replica, raft.term, manifest)
        if number is None:
            mark("multi-snapshot-crowd")
            self._failed(now_us, raft, peer)
        elif raft.offer_snapshot(now_us, peer, manifest.index, manifest.entry_term, number) is not None:
            mark("multi-snapshot-not-needed")
            self._sender.stop(now_us, raft.group, peer)
            self._failed(now_us, raft, peer)
        else:
            self._touch(raft.group)

    def read(self, now_us: Micros, transfer: int, number: int, data: bytes | None) -> None:
        """The answer to Read. None: the cut's bytes are gone or damaged."""
        self.changed = True
        if data is None:
            mark("multi-snapshot-unreadable")
            for group in [g for g, manifest in self._cuts.items() if manifest == self._sender.manifest(transfer)]:
                self._retire(group)
            self._sender.read_failed(now_us, transfer)
        else:
            self._sender.chunk_read(now_us, transfer, number, data)

    def _retire(self, group: GroupId) -> None:
        self._old.add(self._cuts.pop(group))
        self._idle.pop(group, None)

    def led(self, now_us: Micros, raft: Raft) -> None:
        """Role, term or members changed: only a leader sends, in its term, to members."""
        for peer, term in self._sender.of_group(raft.group):
            if raft.role is not Role.LEADER or term != raft.term or peer not in raft.peers:
                mark("multi-transfer-of-the-past")
                self._sender.stop(now_us, raft.group, peer)
                self.changed = True

    def peer_down(self, now_us: Micros, peer: NodeNumber) -> None:
        self._up.discard(peer)
        self._sender.peer_down(now_us, peer)
        self.changed = True

    def peer_up(self, now_us: Micros, peer: NodeNumber) -> None:
        self._up.add(peer)
        self._sender.peer_up(now_us, peer)
        self.changed = True

    # ---- the member ----

    def restore(self, now_us: Micros, manifest: Manifest, chunks: int) -> None:
        """A partial snapshot of an earlier life, its first chunks checked."""
        self.changed = True
        raft = self._rafts.get(GroupId(manifest.group))
        if raft is None or raft.applied >= manifest.index:
            self._work.append(Discard(manifest))
        else:
            mark("multi-transfer-restored")
            self._receiver.restore(now_us, manifest, chunks)

    def announced(self, now_us: Micros, offer: InstallSnapshot) -> None:
        """Raft has accepted the offer; the bulk lane's may have been faster."""
        self._announced[offer.group] = offer
        early = self._early.pop(offer.group, None)
        if early is not None:
            mark("multi-transfer-was-early")
            peer, message = early
            self.message(now_us, peer, self._rafts[offer.group], message)

    def message(self, now_us: Micros, peer: NodeNumber, raft: Raft, message: Message) -> None:
        """One message of the bulk lane to peer."""
        self.changed = True
        if not isinstance(message, Offer | Chunk):
            self._sender.on_message(now_us, peer, message)
        elif message.term > raft.term:
            mark("multi-transfer-of-the-future")  # it has overtaken what Raft is told
            self._keep(peer, raft, message)
        elif isinstance(message, Offer) and message.replica != raft.replica:
            mark("multi-transfer-for-another-replica")
        elif isinstance(message, Offer) and not self._is_announced(peer, raft, message):
            mark("multi-transfer-not-announced")
            self._keep(peer, raft, message)
        else:
            if isinstance(message, Offer):
                self._discard_covered()
            self._receiver.on_message(now_us, peer, message, raft.term, raft.applied)
            known = self._announced.get(raft.group)
            accepted = isinstance(message, Offer) and self._receiver.manifest(raft.group) == message.manifest
            if accepted and known is not None and known.transfer == message.transfer:
                self._accepted[raft.group] = known

    def _keep(self, peer: NodeNumber, raft: Raft, message: Offer | Chunk) -> None:
        """The newest offer, until Raft hears of one: its sender would offer it again only after a stall."""
        if isinstance(message, Offer):
            self._early[raft.group] = peer, message

    def _discard_covered(self) -> None:
        """Partial snapshots that their groups have passed by the log: nobody offers them again, and places are few."""
        for group, index in self._receiver.partials():
            if self._rafts[GroupId(group)].applied >= index:
                mark("multi-transfer-passed")
                self._receiver.drop_group(group)

    def _is_announced(self, peer: NodeNumber, raft: Raft, offer: Offer) -> bool:
        """Has Raft accepted an offer of just this? What it would refuse, or has, is answered all the same."""
        if offer.term < raft.term or offer.manifest.index <= raft.applied:
            return True
        known, manifest = self._announced.get(raft.group), offer.manifest
        if known is None or (known.sender, known.term, known.transfer) != (peer, offer.term, offer.transfer):
            return False
        place = (known.snapshot_index, known.snapshot_term, _packed(known.config_index, known.configuration))
        return place == (manifest.index, manifest.entry_term, manifest.config)

    def written(self, now_us: Micros, manifest: Manifest, number: int) -> None:
        self.changed = True
        self._receiver.written(now_us, manifest, number)

    def write_failed(self, now_us: Micros, manifest: Manifest, reason: Reason) -> None:
        """Begin or Write found no space, or the disk failed."""
        mark("multi-snapshot-not-written")
        self.changed = True
        self._receiver.write_failed(now_us, manifest, reason)

    def installed(self, now_us: Micros, manifest: Manifest) -> list[Committed]:
        """The store holds it durably. What was committed meanwhile and is not in it, to be handed out now."""
        group = GroupId(manifest.group)
        row = self.installing.get(group)
        if row is None or row.manifest != manifest:
            return []  # taken back
        self.changed = True
        del self.installing[group]
        self._rafts[group].snapshot_installed(now_us, row.offer)
        self._touch(group)
        self._receiver.installed(manifest)
        held = self._held.pop(group, None)
        if held is None:
            return []
        mark("multi-committed-during-install")
        _, first, last = held
        return [(group, max(first, manifest.index + 1), last)] if last > manifest.index else []

    def install_failed(self, now_us: Micros, manifest: Manifest, reason: Reason) -> list[Committed]:
        """Nothing of it is seen in the group. What was committed meanwhile, to be handed out now."""
        group = GroupId(manifest.group)
        row = self.installing.get(group)
        if row is None or row.manifest != manifest:
            return []
        mark("multi-install-failed")
        self.changed = True
        del self.installing[group]
        self._rafts[group].snapshot_refused(now_us, row.offer)
        self._touch(group)
        self._receiver.install_failed(now_us, manifest, reason)
        held = self._held.pop(group, None)
        return [held] if held else []

    def hold(self, committed: Committed) -> bool:
        """True: an install is out, and what was committed waits for its end."""
        if committed[0] not in self.installing:
            return False
        group, first, last = committed
        held = self._held.get(group)
        assert held is None or held[2] + 1 == first, "what is committed comes in order"
        self._held[group] = committed if held is None else (group, held[1], last)
        return True

    # ---- both ----

    def drop_group(self, now_us: Micros, group: GroupId) -> None:
        """The replica is gone from here."""
        self.changed = True
        self._sender.stop(now_us, group)
        self._receiver.drop_group(group)
        for table in (self._making, self._announced, self._early, self._accepted, self.installing, self._held):
            table.pop(group, None)
        for wishes in self._wishes.values():
            wishes.pop(group, None)
        if group in self._cuts:
            self._retire(group)

    def tick(self, now_us: Micros) -> None:
        due = self.next_deadline_us()
        if due is None or now_us < due:
            return
        self.changed = True
        self._sender.tick(now_us)
        self._discard_covered()
        self._receiver.tick(now_us)
        self._not_before = {row: at for row, at in self._not_before.items() if at > now_us}
        for group, since_us in list(self._idle.items()):
            if now_us >= since_us + self._limits.kept_us:
                self._retire(group)

    def next_deadline_us(self) -> Micros | None:
        due_us, received_us = self._sender.next_deadline_us(), self._receiver.next_deadline_us()
        if received_us is not None and (due_us is None or received_us < due_us):
            due_us = received_us
        if self._idle:
            idle_us = min(self._idle.values()) + self._limits.kept_us
            due_us = idle_us if due_us is None or idle_us < due_us else due_us
        return due_us

    def take(self, now_us: Micros, bulk: dict[NodeNumber, list[Message]]) -> list[Work]:
        """What to do, and in `bulk` what to send."""
        self.changed = False
        self._release(now_us)
        self._serve(now_us)
        for sent in self._sender.take_outputs():
            if isinstance(sent, sender.Send):
                bulk.setdefault(NodeNumber(sent.peer), []).append(sent.message)
            elif isinstance(sent, Read):
                self._work.append(sent)
            else:
                self._finished(now_us, sent)
        for done in self._receiver.take_outputs():
            if isinstance(done, receiver.Send):
                bulk.setdefault(NodeNumber(done.peer), []).append(done.message)
            elif isinstance(done, receiver.Install):
                self._install(now_us, done.manifest)
            else:
                self._work.append(done)
        work, self._work = self._work, []
        return work

    def _finished(self, now_us: Micros, row: Finished) -> None:
        if row.reason is None:
            return  # Raft hears it from the member's Raft
        group, peer = GroupId(row.manifest.group), NodeNumber(row.peer)
        mark("multi-transfer-ended-without-install")
        if row.retry_us:
            self._not_before[group, peer] = now_us + min(row.retry_us, self._limits.quarantine_us)
        raft = self._rafts.get(group)
        progress = raft.peers.get(peer) if raft is not None and raft.role is Role.LEADER else None
        if progress is not None and progress.offer is not None and progress.offer.transfer == row.transfer:
            assert raft is not None
            self._failed(now_us, raft, peer)

    def _install(self, now_us: Micros, manifest: Manifest) -> None:
        group = GroupId(manifest.group)
        raft, offer = self._rafts[group], self._accepted[group]
        assert (offer.snapshot_index, offer.snapshot_term) == (manifest.index, manifest.entry_term)
        self.installing[group] = Installing(manifest, offer)
        if raft.delivered >= manifest.index:  # commit went past it while its chunks came
            mark("multi-snapshot-passed")
            self.installed(now_us, manifest)
            return
        carried = books.Carried(
            raft.replica, raft.term, raft.vote, raft.vote_replica, offer.config_index, offer.configuration, True
        )
        self._work.append(Install(manifest, books.carried_bytes(carried)))

    def _release(self, now_us: Micros) -> None:
        """Cuts that no transfer reads: old ones go at once, the newest after a while."""
        if not self._old and not self._cuts:
            return
        used = self._sender.manifests()
        for manifest in sorted(self._old - used, key=lambda row: (row.group, row.index, row.digest)):
            self._work.append(Release(manifest))
        self._old &= used
        for group, manifest in self._cuts.items():
            if manifest in used:
                self._idle.pop(group, None)
            else:
                self._idle.setdefault(group, now_us)


def _first_number(generation: int) -> int:
    """Of a life's transfers. Two lives that meet in a number, after so many, still differ in their terms."""
    return (generation << COUNT_BITS) % (1 << FIRST_BITS) + 1


def _reaches(raft: Raft, manifest: Manifest) -> bool:
    """Does this leader's log go on behind it?"""
    return raft.log.term(manifest.index) == manifest.entry_term and manifest.index <= raft.commit


def _with_configuration(raft: Raft, made: Manifest) -> Manifest | None:
    """The manifest with what was in force at its index; None: the log does not go on behind it (any more)."""
    if made.index == 0 or not _reaches(raft, made):
        return None
    index, configuration = raft.configuration_at(made.index)
    return msgspec.structs.replace(made, config=_packed(index, configurations.encode(configuration)))


def _packed(index: LogIndex, configuration: bytes) -> bytes:
    return index.to_bytes(8, "little") + configuration
