"""Liveness between two processes: one heartbeat speaks for all groups led there, and counts for each group by itself.

Invariant: contact counts for a group only if the group was in the set that the heartbeat carried, at the group's term,
and the acknowledgement had no doubt about it; a promise given for a group is never shortened, whatever happens to the
set later. Costs per heartbeat depend on what changed and what is in doubt, never on the number of groups. Who is a
member of what is core.py's; this file knows numbers only.
"""

from collections import deque
from collections.abc import Callable

from nodedb_node.ids import GroupId, NodeNumber
from nodedb_node.marks import mark
from nodedb_node.multiraft.messages import Doubt, LaneAck, LaneHeartbeat
from nodedb_node.raft.messages import Micros, Term

FORGET_PROMISES = 4  # for how many promises' time the send time of a heartbeat is remembered

Judge = Callable[[GroupId, Term], tuple[Doubt, Term] | None]


class Outbound:
    """What this process tells one peer: the groups it leads there, and what the peer acknowledged of that."""

    def __init__(self, peer: NodeNumber) -> None:
        self.peer = peer
        self.peer_generation = 0  # of the newest process known of the peer; 0 = none yet
        self.set: dict[GroupId, Term] = {}
        self.acked_sent_us: Micros = 0
        self.waits_us: Micros = 0  # since when heartbeats are not answered; 0 = the newest was
        self.silent = False  # for so long that leaders count the peer as out of contact
        self._since: dict[GroupId, int] = {}  # first heartbeat with the group at this term
        self._kept: dict[GroupId, Micros] = {}  # contact from before a doubt began
        self._doubts: dict[GroupId, tuple[Doubt, Term]] = {}
        self._number = self._acked_number = 0
        self._epoch = self._acked_epoch = 0
        self._changed: dict[GroupId, int] = {}  # group → epoch of its newest change, if not acknowledged
        self._sent: deque[tuple[int, Micros, Micros]] = deque()  # number, when, promise asked for; not acknowledged
        self._sent_epoch = 0  # of the newest heartbeat

    @property
    def idle(self) -> bool:
        """Nothing to say."""
        return not self.set and not self._changed

    def put(self, group: GroupId, term: Term) -> None:
        """This process leads the group in this term, and the peer has a replica."""
        if self.set.get(group) != term:
            self._change(group)
            self.set[group] = term
            self._since[group] = self._number + 1

    def drop(self, group: GroupId) -> None:
        if self.set.pop(group, None) is not None:
            self._change(group)
            del self._since[group]

    def _change(self, group: GroupId) -> None:
        if self._epoch == self._sent_epoch:  # it has left: what changes now belongs to the next one
            self._epoch += 1
        self._changed[group] = self._epoch
        self._kept.pop(group, None)
        self._doubts.pop(group, None)

    def beat(
        self, now_us: Micros, sender: NodeNumber, generation: int, promise_us: Micros, bound: int
    ) -> LaneHeartbeat:
        """The next heartbeat: everything that changed since the acknowledged epoch."""
        self._number += 1
        self._sent.append((self._number, now_us, promise_us))
        while self._sent[0][1] < now_us - FORGET_PROMISES * promise_us:
            self._sent.popleft()
        self.waits_us = self.waits_us or now_us
        self._sent_epoch = self._epoch
        groups = sorted(self.set if self._acked_epoch == 0 else self._changed)
        present = tuple((group, self.set[group]) for group in groups if group in self.set)
        absent = tuple(group for group in groups if group not in self.set)
        row = (sender, generation, self._number, self._epoch, self._acked_epoch, promise_us, bound)
        return LaneHeartbeat(*row, present, absent)

    def ack(self, ack: LaneAck) -> list[tuple[GroupId, Doubt, Term]] | None:
        """Take in an acknowledgement to this generation; its doubts, or None: it says nothing new."""
        sent_us = self._take_sent(ack) if ack.generation >= self.peer_generation else None
        if sent_us is None:
            mark("lane-ack-stale")
            return None
        if ack.generation != self.peer_generation:
            self.peer_generation = ack.generation
        if ack.full:
            mark("lane-set-asked-again")
            self.say_all()
            return None
        self._keep({group for group, _, _ in ack.doubts})
        self._acked_number, self.acked_sent_us = ack.number, sent_us
        self.waits_us, self.silent = 0 if ack.number == self._number else sent_us, False
        self._acked_epoch = ack.epoch
        self._changed = {group: epoch for group, epoch in self._changed.items() if epoch > ack.epoch}
        # A doubt about what the group was before its newest change says nothing.
        self._doubts = {g: (doubt, term) for g, doubt, term in ack.doubts if self._since.get(g, 1 << 62) <= ack.number}
        return list(ack.doubts)

    def say_all(self) -> None:
        """The peer's process is a new one, or lost count: all of the set is news."""
        self._acked_epoch = 0
        self._epoch += 1

    def acked_us(self, group: GroupId, term: Term) -> Micros:
        """Send time of the newest acknowledged heartbeat that counts for the group; 0 = none in this term."""
        if self.set.get(group) != term:
            return 0
        if group not in self._doubts and self._since[group] <= self._acked_number:
            return self.acked_sent_us
        return self._kept.get(group, 0)

    def _keep(self, doubted: set[GroupId]) -> None:
        for group in doubted - self._doubts.keys():
            if group in self.set and self._since[group] <= self._acked_number:
                self._kept[group] = self.acked_sent_us

    def _take_sent(self, ack: LaneAck) -> Micros | None:
        """When the heartbeat was sent, if it is newer than the acknowledged one; earlier by what is lacking of the
        promise: what rests on it ends with what was promised. Older ones are forgotten."""
        sent = self._sent
        while sent and sent[0][0] < ack.number:
            sent.popleft()
        if not sent or sent[0][0] != ack.number:
            return None
        _, sent_us, promise_us = sent.popleft()
        return sent_us - max(0, promise_us - ack.promise_us)


class Inbound:
    """What one peer's process says it leads here."""

    def __init__(self, peer: NodeNumber, fence_us: Micros) -> None:
        self.peer = peer
        self._fence_us = fence_us  # for how long after a start nobody is voted for: longer promises would not hold
        self.generation = 0
        self.set: dict[GroupId, Term] = {}
        self.heard_us: Micros = 0
        self.lost = True
        self._promise_us: Micros = 0  # until when, for all that counts
        self._promised: dict[GroupId, Micros] = {}  # for groups that counted once and do not now
        self._number = self._epoch = 0
        self._doubts: dict[GroupId, tuple[Doubt, Term]] = {}

    def take(
        self, now_us: Micros, beat: LaneHeartbeat, own: tuple[NodeNumber, int, int], judge: Judge
    ) -> tuple[LaneAck | None, list[GroupId], bool]:
        """(answer, groups that left the set, a new process speaks). own: this process's node, generation, HLC bound."""
        if beat.generation < self.generation or (beat.generation == self.generation and beat.number <= self._number):
            mark("lane-beat-stale")
            return None, [], False
        left: list[GroupId] = []
        fresh = beat.generation > self.generation
        if fresh:
            left = self.forget()
            self.generation, self._number, self._epoch = beat.generation, 0, 0
        self._number = beat.number
        node, generation, bound = own
        if beat.base > self._epoch:
            mark("lane-base-unknown")
            ack = LaneAck(node, generation, beat.generation, beat.number, self._epoch, True, bound)
            return ack, left, fresh
        left += self._learn(beat, judge)
        self.heard_us, self.lost = now_us, False
        promise_us = max(0, min(beat.promise_us, self._fence_us))
        self._promise_us = max(self._promise_us, now_us + promise_us)
        self._promised = {group: until_us for group, until_us in self._promised.items() if until_us > now_us}
        doubts = tuple((group, doubt, term) for group, (doubt, term) in sorted(self._doubts.items()))
        answer = (node, generation, beat.generation, beat.number, beat.epoch, False, bound, doubts, promise_us)
        return LaneAck(*answer), left, fresh

    def _learn(self, beat: LaneHeartbeat, judge: Judge) -> list[GroupId]:
        """Take the delta over; which groups left."""
        self._epoch = beat.epoch
        present = dict(beat.present)
        gone = set(beat.absent) if beat.base else self.set.keys() - present.keys()
        left = sorted(group for group in gone if group in self.set)
        for group in left:
            self._leave(group)
        for group, term in present.items():
            if self.set.get(group) != term:
                self._hold(group)
            self.set[group] = term
            self.judge(group, judge)
        return left

    def forget(self) -> list[GroupId]:
        """The process that spoke is gone: so is its set. Promises stay."""
        left = sorted(self.set)
        for group in left:
            self._leave(group)
        return left

    def judge(self, group: GroupId, judge: Judge) -> None:
        """The group changed, here or in the set."""
        if group not in self.set:
            return
        doubt = judge(group, self.set[group])
        if doubt is None:
            self._doubts.pop(group, None)
        else:
            self._hold(group)
            self._doubts[group] = doubt

    def counted_us(self, group: GroupId, term: Term) -> Micros:
        """Arrival of the newest heartbeat that counts for the group; 0 = none does."""
        return self.heard_us if self._counts(group) and self.set[group] == term else 0

    def promised_us(self, group: GroupId) -> Micros:
        """Until when a promise given here for the group holds."""
        kept = self._promised.get(group, 0)
        return max(kept, self._promise_us) if self._counts(group) else kept

    def _counts(self, group: GroupId) -> bool:
        return group in self.set and group not in self._doubts

    def _hold(self, group: GroupId) -> None:
        if self._counts(group):
            self._promised[group] = max(self._promised.get(group, 0), self._promise_us)

    def _leave(self, group: GroupId) -> None:
        self._hold(group)
        self._doubts.pop(group, None)
        del self.set[group]
