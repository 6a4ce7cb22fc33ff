"""One simulated worker process: the pure machines, the log on the simulated disk, the stores' twins, and the shell's
part between them, with a chance to die at every point where production could.

A life runs from `start` to `die`; what a life promised is on the disk or was never said. Its loop comes round some time
after something arrived (a frame, a request, a deadline, a completion of the disk): then all that arrived meanwhile is
handled, and turns are taken once for all of it. Invariants: everything a turn asks for is done in the order Ready
prescribes (records, then messages that depend on them; commits as they are given); a round reads the clock after what
it handles has arrived and before anything of it is handled, and may be stopped in between. Time is the world's, read
through the node's own clock.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from nodedb_node.multiraft import books
from nodedb_node.multiraft.books import KIND_OF_WAL, Carried
from nodedb_node.multiraft.messages import Turn
from nodedb_node.native import wal
from nodedb_node.native.wal import GroupBook, Record
from nodedb_node.raft import configuration as configurations
from nodedb_node.raft.messages import (
    CONFIG,
    NOBODY,
    AppendEntries,
    AppendResponse,
    Busy,
    Configuration,
    Entry,
    Halted,
    HardState,
    InstallSnapshot,
    NotLeader,
    QuarantineChanged,
    Removed,
    ReplicaId,
    RequestVote,
    Reset,
    Restored,
    Role,
    RoleChanged,
    SnapshotResponse,
    VoteResponse,
)
from nodedb_node.storage.recovery import LogDamaged, Recovered
from tests.sim.checkers import Checkers, require
from tests.sim.disk import SimDisk, SimLog
from tests.sim.machine import Machine
from tests.sim.replica import Log
from tests.sim.store import Snapshot, Store
from tests.sim.transfers import BULK, Worker
from tests.sim.world import Violation, World

DELIVERED, TICK, DURABLE, REQUEST, DIED, STARTED = range(6)

_encode = msgspec.msgpack.Encoder().encode
Arrival = tuple[Callable[..., None], tuple[Any, ...]]

CHECKED = frozenset({AppendEntries, AppendResponse, RequestVote, SnapshotResponse, VoteResponse})


# How late a loop comes round: up to so many microseconds at that share of the draws; straight lines in between.
AT_ONCE = 0.5
LATENESS = ((0.92, 150), (0.99, 800), (1.0, 5_000))
BUSY_US_MAX = 20_000
MILLION = 1_000_000


class Request(NamedTuple):
    """A client's command (payload) or read (payload empty)."""

    client: Any
    serial: int
    group: int
    key: str
    payload: bytes


class Process:
    """One worker of one node, over all its lives."""

    def __init__(self, cluster: Any, node: int, worker: int) -> None:
        self.cluster, self.node, self.worker = cluster, node, worker
        self.world: World = cluster.world
        self.clock = cluster.clocks[node]
        self.checkers: Checkers = cluster.checkers
        self.disk = SimDisk()
        self.founded: dict[int, bytes] = {}  # groups that begin here, and their configuration
        self.present: dict[int, int] = {}  # the catalog: replicas that live here
        self.tombstones: dict[int, int] = {}  # removed replicas; durable in the log, kept here too for lookers-on
        self.generation = self.life = 0
        self.alive = self.paused = self.hung = False
        self.logs: dict[int, Log] = {}  # of the last life, after its end
        self.before: dict[int, Log] = {}
        self.stores: dict[int, Store] = {}
        self.was_damaged = self.forgets = False
        self.slow_until = self.busy_until = 0
        self.resumed_us = 0  # by its clock

    # ---- life ----

    def now(self) -> int:
        clock, now_us = self.clock, self.world.now_us
        return clock.offset_us + now_us + now_us * clock.ppm // MILLION  # type: ignore[no-any-return]

    def found(self, group: int, configuration: Configuration) -> None:
        """This node is a founder of the group."""
        self.founded[group] = configurations.encode(configuration)
        self.present[group] = 0

    def start(self) -> None:
        """A new process reads what the last one left."""
        assert not self.alive
        self.generation += 1
        self.life += 1
        self.alive, self.paused, self.hung, self.resumed_us = True, False, False, 0
        self.world.trace(STARTED, self.node, self.worker, self.generation)
        self.inbox: list[Arrival] = []  # what waits for the next round
        self.stuck: list[Arrival] = []  # completions that a hung disk owes
        self.stopped: tuple[int, list[Arrival]] | None = None  # a round that was paused after it had read the clock
        self.waking = self.stirred = False  # a round is on its way; the machines may have something to hand out
        self.stops_for_us = 0  # the next round is paused for so long
        self.round_us = self.now()  # by its clock: what the round takes for now
        self.machine: Machine = self.cluster.machine(self.node, self.generation)
        self.timer_us = self.due_us = -1  # when the timer fires, and what the machines asked for
        self.before = self.logs
        self.logs, self.stores = {}, {}
        self.pending: list[tuple[int, list[Record], list[Any]]] = []
        self.writing: tuple[int, list[Any]] | None = None
        self.held: deque[tuple[int, dict[int, list[Any]]]] = deque()
        self.durable_turn = self.taken_turn = self.write_began_us = 0
        self.waiting: dict[int, dict[int, tuple[int, Request]]] = {}
        self.reads: dict[int, list[tuple[Any, Request]]] = {}
        self.snapshots = Worker(self)
        self.checkpointing: dict[int, int] = {}
        self.elected_at: dict[int, int] = {}  # commit index when leadership began
        self.was_damaged = False
        self.replaced: set[int] = set()  # groups whose log was another history than their newest snapshot
        try:
            recovered = self.disk.recover() if self.disk.files else None
        except LogDamaged as error:
            # Only what came before the damage is believed, and the groups neither vote nor lead until released.
            self.was_damaged = True
            if self.cluster.verbose:
                print("damaged", self.node, error)
            self.world.fault("disk.damage-found")
            self.disk.cut_damage(error.file, error.offset)
            recovered = self.disk.recover()
        if self.forgets:
            self.was_damaged = True
            self.world.fault("disk.hard-state-lost")
        self._open(recovered)
        self.forgets = False

    def _open(self, recovered: Recovered | None) -> None:
        if recovered:
            recovered.drop_unused()
        entries = read_entries(recovered) if recovered else {}
        self.log = log = SimLog(self.disk, recovered)
        # Durable before anything is said: what only the page cache may hold, what a crash kept from being written.
        log.write_now(log.again, known=True)
        known = {group: log.book.group(group) for group in self.cluster.groups}
        log.write_now([row for group, book in known.items() for row in self._first_records(group, book)])
        for group, before in known.items():
            book = log.book.group(group)
            if group in self.present:
                self._restore(group, book, entries.get(group, []), before.known)
        self.snapshots.restore()
        self.cluster.greet(self)
        self._turn()

    def _first_records(self, group: int, book: GroupBook) -> list[Record]:
        """What must be in the log before the group begins: its beginning, a quarantine, a mark that was lost."""
        if group not in self.present:
            return []
        replica = self.present[group]
        snapshot: Snapshot | None = self.disk.checkpoints.get((group, replica))
        if book.replica != replica or not book.configs:
            return self._begin_again(group, replica, snapshot)
        rows = [Record(wal.QUARANTINE, group, data=b"\1")] if self.was_damaged else []
        if self.forgets:
            rows += books.written(group, HardState(book.last_term, NOBODY, ReplicaId(0)))
        if self.was_damaged:
            self.checkers.forgotten(group, self.node, replica)
        behind = self._behind_install(group, snapshot) if snapshot else []
        if behind:
            rows += behind
            self.replaced.add(group)
        elif snapshot and not self._log_reaches(group, book, snapshot):
            require(self.was_damaged, "files are missing", f"group {group}: the checkpoint is at {snapshot.applied}")
            place = (snapshot.applied, snapshot.term, False, snapshot.config_index, snapshot.configuration)
            rows += books.written(group, Reset(*place))
            self.replaced.add(group)
        return rows

    def _begin_again(self, group: int, replica: int, snapshot: Snapshot | None) -> list[Record]:
        """The log says nothing of a replica that lives here: it begins now, or damage took all of it."""
        if snapshot:
            carried = Carried(replica, 0, 0, 0, snapshot.config_index, snapshot.configuration)
            rows = books.beginning(group, carried, snapshot.applied, snapshot.term)
        else:
            founders = self.founded[group] if replica == 0 else configurations.encode(Configuration())
            rows = books.beginning(group, Carried(replica, configuration=founders), 0, 0)
        if not self.was_damaged:
            return rows
        self.checkers.forgotten(group, self.node, replica)
        return [*rows, Record(wal.QUARANTINE, group, data=b"\1")]

    def _behind_install(self, group: int, snapshot: Snapshot) -> list[Record]:
        """The process died between an install and its Reset."""
        place = (snapshot.applied, snapshot.term, snapshot.carried)
        rows = books.behind_install(group, self.log.book, *place)
        if rows:
            self.world.fault("snapshot.log-was-behind")
        return rows

    def _log_reaches(self, group: int, book: GroupBook, snapshot: Snapshot) -> bool:
        if snapshot.applied <= book.compact_index:
            return True
        in_log = book.first <= snapshot.applied <= book.last
        return in_log and self.log.book.entry(group, snapshot.applied).term == snapshot.term

    def _restore(self, group: int, book: GroupBook, entries: list[tuple[int, Entry]], promised: bool) -> None:
        replica = book.replica or 0
        log = Log(self.node, replica, group)
        log.recovered(book, [row for i, row in entries if book.first <= i <= book.last])
        snapshot: Snapshot | None = self.disk.checkpoints.get((group, replica))
        if not self.was_damaged and group in self.before:
            self._check_survived(group, log, self.before[group])
        store = Store(book.configs[0].data, snapshot)
        if snapshot:
            self._check_snapshot(group, snapshot)
        self.logs[group], self.stores[group] = log, store
        self.waiting[group], self.reads[group] = {}, []
        restored = books.restored(group, self.log.book, store.applied, promised)
        self.machine.add_group(self.now(), group, replica, restored)

    def _check_survived(self, group: int, log: Log, before: Log) -> None:
        """What was durable when the last life ended is there."""
        if log.replica == before.replica:
            whole = log.last >= before.durable or group in self.replaced
            require(whole, "durable log", f"group {group}: {log.last} of {before.durable}")
            require(log.vote >= before.durable_vote, "durable vote", f"group {group}: {log.vote}", before.durable_vote)

    def die(self) -> None:
        """The process ends here and now; the page cache stays."""
        if not self.alive:
            return
        self.alive = False
        self.life += 1
        self.log.close()
        self.cluster.parted(self)
        self.world.trace(DIED, self.node, self.worker)

    def crash_here(self, point: str) -> bool:
        """A point where production could die: does it, this time?"""
        if not self.cluster.crash_at(point):
            return False
        self.world.fault(f"crash.{point}")
        self.die()
        self.cluster.restart_later(self)
        return True

    # ---- the loop ----

    def arrive(self, handle: Callable[..., None], *arguments: Any) -> None:
        """handle(now_us, *arguments) when the loop comes round."""
        if self.alive:
            self.inbox.append((handle, arguments))
            if not self.waking:
                self.wake()

    def complete(self, life: int, handle: Callable[..., None], *arguments: Any) -> None:
        """The same for what the disk has done, if it answers."""
        if life == self.life:
            if self.hung:
                self.stuck.append((handle, arguments))
            else:
                self.arrive(handle, *arguments)

    def wake(self) -> None:
        """The loop comes round soon."""
        if self.waking or self.paused:
            return
        late_us = self._lateness_us()
        if late_us:
            self.waking = True
            self.world.after(late_us, self._round, self.life)
        else:
            self._round(self.life)

    def stir(self) -> None:
        """An operator has asked something of the machines."""
        self.stirred = True
        self.wake()

    def _lateness_us(self) -> int:
        if self.busy_until > self.world.now_us:
            return self.world.between(0, BUSY_US_MAX)
        draw, before, low = self.world.rng.random(), AT_ONCE, 0
        if draw < before:
            return 0
        for share, high in LATENESS:
            if draw < share:
                break
            before, low = share, high
        return low + int((draw - before) / (share - before) * (high - low))

    def _round(self, life: int) -> None:
        if life != self.life:
            return
        self.waking = False
        if self.paused:
            return
        inbox, self.inbox = self.inbox, []
        if self.stops_for_us:
            self.stopped = (self.now(), inbox)
            self.pause(self.stops_for_us)
        else:
            self._handle(self.now(), inbox)

    def _handle(self, now_us: int, inbox: list[Arrival]) -> None:
        life, self.round_us = self.life, now_us
        for handle, arguments in inbox:
            handle(now_us, *arguments)
            if self.life != life:
                return
        if self.stirred:
            self._turn()

    def pause(self, for_us: int) -> None:
        """What arrives waits until it runs again."""
        self.paused, self.stops_for_us = True, 0
        self.world.after(for_us, self._resume, self.life)

    def _resume(self, life: int) -> None:
        if life == self.life:
            self.resume()

    def resume(self) -> None:
        self.stops_for_us = 0
        if not self.paused:
            return
        self.paused, self.resumed_us = False, self.now()
        stopped, self.stopped = self.stopped, None
        if stopped is not None:
            self._handle(*stopped)
        if self.alive and self.inbox:
            self.wake()

    # ---- what arrives ----

    def deliver(self, source: Any, generation: int, messages: list[Any], crc: int) -> None:
        self.arrive(self.frame, source, generation, messages, crc)

    def frame(self, now: int, source: Any, generation: int, messages: list[Any], crc: int) -> None:
        world = self.world
        world.events += len(messages)
        world.trace(DELIVERED, self.node, self.worker, source.node, crc)
        self.stirred = True
        batch = []
        known: dict[int, int] = {}  # by group, the index up to which something says that it is committed
        for message in messages:
            kind = type(message)
            if kind is AppendEntries:
                self._create(now, message)
                self._learn_commit(known, message)
            elif kind is AppendResponse or kind is SnapshotResponse:
                if message.ok:
                    self.checkers.answered(message)
            elif kind in BULK:
                self.machine.step_bulk(now, source.node, [message])
                continue
            elif kind is InstallSnapshot:
                self._create(now, message)
            batch.append(message)
        if batch:
            self.machine.step(now, source.node, generation, batch)
            for message in batch:
                if type(message) is AppendResponse and message.ok:
                    self._check_match(source, message)
            for group, index in known.items():
                self.checkers.vouched(group, self.node, self.machine.groups[group].commit, index)

    def lane_up(self, now: int, node: int, generation: int) -> None:
        self.machine.lane_up(now, node, generation)
        self.stirred = True

    def lane_down(self, now: int, node: int, generation: int) -> None:
        self.machine.lane_down(now, node, generation)
        self.stirred = True

    def _learn_commit(self, known: dict[int, int], append: AppendEntries) -> None:
        core = self.machine.groups.get(append.group)
        if core is not None:
            before = known.get(append.group, core.commit)
            known[append.group] = max(before, min(append.commit, append.last_index))

    def _check_match(self, source: "Process", message: AppendResponse) -> None:
        """That it is what was said; and true, of a member that lives and was not damaged since."""
        core, log = self.machine.groups.get(message.group), source.logs.get(message.group)
        peer = core.peers.get(message.sender) if core is not None and core.role is Role.LEADER else None
        if core is None or peer is None:
            return
        self.checkers.believed(message.group, self.node, core.term, (peer.node, peer.replica), peer.match)
        if log is None or not source.alive or peer.replica != log.replica or log.quarantined:
            return
        if log.vote[0] <= core.term:  # a later term may have taken away what this one acknowledged
            self.checkers.matched(message.group, self.logs[message.group], peer.match, log)

    def _create(self, now: int, message: Any) -> None:
        """A replica id newer than anything known here brings the replica into being; older ones stay dead."""
        group, replica = message.group, message.receiver_replica
        known = self.logs.get(group)
        if known is not None:
            if replica <= known.replica:
                return
            self._removed(group)  # the leader knows of its removal, as it was added again
        if replica <= self.tombstones.get(group, -1) or replica == 0:
            return
        rows = books.beginning(group, Carried(replica, configuration=configurations.encode(Configuration())), 0, 0)
        self.present[group] = replica
        self.pending.append((self.taken_turn, rows, []))
        self.logs[group], self.stores[group] = Log(self.node, replica, group), Store(rows[1].data)
        self.waiting[group], self.reads[group] = {}, []
        self.machine.add_group(now, group, replica, Restored())

    def _tick(self, now: int) -> None:
        self.world.events += 1
        self.world.trace(TICK, self.node, self.worker)
        self.due_us = -1
        self.stirred = True
        age_us = self.world.now_us - self.write_began_us if self.writing is not None else 0
        self.machine.tick(now, age_us)

    def request(self, request: Request) -> None:
        """A client's command or read arrives."""
        if self.alive:
            self.cluster.client_messages += 1
            self.arrive(self._request, request)

    def _request(self, now: int, request: Request) -> None:
        self.world.trace(REQUEST, self.node, self.worker, request.serial)
        if request.group not in self.logs:
            self._refuse(request, NOBODY)
            return
        multi, group, payload = self.machine.multi, request.group, request.payload
        refusal: Any = None
        if not payload:
            refusal = multi.read(now, group, request)  # type: ignore[arg-type]
        elif self.log.full:
            refusal = Busy("disk")
        else:
            (result,) = multi.propose(now, [(group, len(payload), payload)])  # type: ignore[list-item]
            if isinstance(result, tuple):
                index, term = result
                self.waiting[group][index] = (term, request)
            else:
                refusal = result
        if refusal is not None:
            self._refuse(request, refusal)
        self.stirred = self.stirred or self.machine.groups[group].changed

    def _refuse(self, request: Request, refusal: Any) -> None:
        leader = refusal.leader if isinstance(refusal, NotLeader) else NOBODY
        if leader == self.node:
            raise Violation(f"hint: group {request.group}: node {self.node} names itself")
        self.cluster.answer(self, request, "refused", leader)

    # ---- the turn ----

    def _turn(self) -> None:
        """Do what the machines ask for, until they ask for nothing."""
        take_turn, now_us = self.machine.take_turn, self.round_us
        self.stirred = False
        while self.alive:
            turn = take_turn(now_us)
            if turn is not None:
                self._do(turn)
            elif not self._write():
                break
        if self.alive:
            self._schedule()

    def _do(self, turn: Turn) -> None:
        self.taken_turn = turn.number
        records: list[Record] = []
        effects: list[Any] = []
        for row in turn.records:
            group, record = row.group, row.record
            log = self.logs[group]
            entries = getattr(record, "entries", None)
            if entries is not None:
                self._check_append(group, log, record.first, entries)
            log.take(record, records, effects)
        self.pending.append((turn.number, records, effects))
        for group, event in turn.events:
            if type(event) is RoleChanged and event.role is Role.LEADER:
                self.elected_at[group] = self.machine.groups[group].commit
                self.cluster.elected(self, group, event.term)
        if turn.free:
            self._send(turn.free)
        if turn.after:
            self.held.append((turn.number, turn.after))
        for group, first, last in turn.committed:
            self._apply(group, first, last)
        for group, state in turn.reads:
            self._answer_read(group, state)
        for _, failure in turn.read_failures:
            self._refuse(failure.context, failure.refusal)
        if turn.bulk:
            self.snapshots.send(turn.bulk)
        if turn.work:
            self.snapshots.take(turn.work)
        for group, event in turn.events:
            self._on_event(group, event)

    def _check_append(self, group: int, log: Log, first: int, entries: Any) -> None:
        core = self.machine.groups[group]
        for index, entry in enumerate(entries, first):
            if entry.kind == CONFIG and core.role is Role.LEADER and entry.term == core.term:
                self.checkers.proposed_configuration(group, core.commit, index, log.last_config())
        self.checkers.appended(group, log, first, entries)

    def _send(self, by_peer: dict[int, list[Any]]) -> None:
        for peer, messages in by_peer.items():
            frame = []
            for message in messages:
                kind = type(message)
                if kind is AppendEntries:
                    message = self._attach(message)
                if kind in CHECKED:
                    self._check_sent(message)
                frame.append(message)
            target = self.cluster.process(peer, self.worker)
            crc = crc32(_encode(frame))
            self.cluster.network.send(self, target, self.worker, (self, self.generation, frame, crc))

    def _attach(self, message: AppendEntries) -> AppendEntries:
        """The encoder's part: the entries themselves."""
        if message.last_index == message.prev_index:
            return message
        entries = self.logs[message.group].slice(message.prev_index + 1, message.last_index)
        return msgspec.structs.replace(message, entries=entries)

    def _check_sent(self, message: Any) -> None:
        log = self.logs.get(message.group)
        if log is not None and log.replica == message.sender_replica:  # the last words of a replaced one may be held
            self.checkers.sent(message.group, log, message)
            if type(message) is AppendResponse and message.ok:
                leader = self.cluster.leader_of(message.group, message.receiver, message.term)
                if leader is not None:
                    self.checkers.agreed(message.group, log, message.index, leader)

    # ---- the disk ----

    def _write(self) -> bool:
        """Everything that gathered goes into one append; a turn without records waits only for those before it: True
        when it is durable already, and something comes of that."""
        if self.writing is not None or not self.pending or self.hung:
            return False
        pending, self.pending = self.pending, []
        number, records, effects = pending[-1]
        if len(pending) > 1:
            records = [record for _, rows, _ in pending for record in rows]
            effects = [effect for _, _, rows in pending for effect in rows]
        if not records:
            self._durable(number, effects)
            return self.machine.busy
        if not self.crash_here("before-write"):
            self._append(number, records, effects)
        return False

    def _append(self, number: int, records: list[Record], effects: list[Any]) -> None:
        if len(self.disk.files) > 1 and self.log.dying(self._covered()):
            records = self._live_records() + records  # the book is older than what is written now
        size = self.log.begin(records)
        self.writing = (number, effects)
        self.write_began_us = self.world.now_us
        if self.crash_here("in-write"):
            self.disk.cut_power(lambda: self.world.chance(0.5))
            return
        if self.cluster.disk_fails(self):
            self.die()
            self.cluster.restart_later(self)
            return
        self.world.after(self.cluster.sync_us(self, size), self.complete, self.life, self._synced)

    def _covered(self) -> dict[int, int]:
        """Nothing is needed of groups that are not here."""
        return {group: self.logs[group].mark_index if group in self.logs else 1 << 62 for group in self.cluster.groups}

    def _live_records(self) -> list[Record]:
        """What must stay whatever segments die, from the live book."""
        rows = []
        for group in self.cluster.groups:
            book, log = self.log.book.group(group), self.logs.get(group)
            if book.known:
                mark = (log.mark_index, log.mark_term) if log else (0, 0)
                rows += books.rewritten(group, self.log.book, mark)
        return rows

    def _synced(self, now: int) -> None:
        if self.crash_here("after-write"):
            return
        assert self.writing is not None
        self.world.events += 1
        self.world.trace(DURABLE, self.node, self.worker)
        self.stirred = True
        self.log.complete()
        number, effects = self.writing
        self.writing = None
        self.machine.multi.disk_age(now, 0)
        if not self.crash_here("after-sync"):
            self._durable(number, effects)

    def _durable(self, number: int, effects: list[Any]) -> None:
        if effects:
            Log.done(effects)
        self.durable_turn = number
        self.machine.multi.persisted(self.round_us, number)
        held = self.held
        while held and held[0][0] <= number:
            _, messages = held.popleft()
            self._send(messages)
            if self.crash_here("after-send"):
                return

    def unhang(self) -> None:
        """The disk answers again."""
        if not self.hung:
            return
        self.hung = False
        if self.alive:
            self.inbox += self.stuck
            self.stuck = []
            self.stir()

    # ---- the state machine ----

    def _apply(self, group: int, first: int, last: int) -> None:
        log, store, core = self.logs[group], self.stores[group], self.machine.groups[group]
        self.checkers.committed(group, log, first, last, core.term, lambda: self.cluster.backing(group, core))
        if core.role is Role.LEADER and core.commit > self.elected_at.get(group, core.commit):
            self.checkers.counted(group, core.term, log.term_at(core.commit), core.commit)
        waiting = self.waiting[group]
        for index, entry in enumerate(log.slice(first, last), first):
            answer = store.apply(index, entry)
            self.checkers.applied(group, index, store.chain)
            if entry.kind == CONFIG:
                configuration = configurations.decode(entry.data)
                assert configuration is not None
                self.checkers.configured(group, index, configuration)
            if index in waiting:
                term, request = waiting.pop(index)
                if term == entry.term:
                    self.cluster.answer(self, request, "done", answer)
                else:
                    self._refuse(request, NOBODY)
        self.machine.multi.applied(group, last)  # type: ignore[arg-type]
        self._serve(group)
        if (
            store.applied - log.mark_index >= self.cluster.spec.cluster.checkpoint_entries
            and group not in self.checkpointing
        ):
            self._checkpoint(group)

    def _checkpoint(self, group: int) -> None:
        store = self.stores[group]
        self.checkpointing[group] = store.applied
        delay = self.world.between(1_000, 40_000)
        self.world.after(delay, self._written, self.life, group, store.snapshot(), self.logs[group].replica)

    def _written(self, life: int, group: int, snapshot: Snapshot, replica: int) -> None:
        if life == self.life:
            self.arrive(self._checkpointed, group, snapshot, replica)

    def _checkpointed(self, now: int, group: int, snapshot: Snapshot, replica: int) -> None:
        log = self.logs.get(group)
        self.checkpointing.pop(group, None)
        if log is None or log.replica != replica or snapshot.applied <= log.mark_index:
            return
        if self.crash_here("before-checkpoint"):
            return
        self.disk.checkpoints[group, replica] = snapshot
        if self.crash_here("after-checkpoint"):
            return
        term = log.term_at(snapshot.applied)
        assert term == snapshot.term
        records = log.compact(snapshot.applied, term, snapshot.config_index)
        self.machine.multi.compacted({group: (snapshot.applied, term)})  # type: ignore[dict-item]
        self.stirred = True
        self.pending.append((self.taken_turn, records, []))

    # ---- reads ----

    def _answer_read(self, group: int, state: Any) -> None:
        self.reads[group].append((state, state.context))
        self._serve(group)

    def _serve(self, group: int) -> None:
        """Answer the reads whose index is applied; under a lease only if it still holds after the value was read."""
        reads = self.reads[group]
        if not reads:
            return
        store, core = self.stores[group], self.machine.groups[group]
        later = []
        for state, request in reads:
            if store.applied < state.index:
                later.append((state, request))
                continue
            value = store.read(request.key)
            if state.lease:
                if not core.lease_valid(self.now()):
                    self._refuse(request, NOBODY)
                    continue
                self.checkers.lease_used(group, core.term, self.node)
            self.cluster.answer(self, request, "done", value)
        self.reads[group] = later

    def _on_event(self, group: int, event: Any) -> None:
        kind = type(event)
        if kind is Removed:
            self._removed(group)
        elif kind is Halted:
            require(False, "halted", f"group {group} node {self.node}: {event.why}: {event.dump}")
        elif kind is QuarantineChanged:
            self.world.fault("raft.quarantine-on" if event.on else "raft.quarantine-off")
        else:
            self.cluster.noticed(self, group, event)

    def _check_snapshot(self, group: int, snapshot: Snapshot) -> None:
        """A snapshot equals the replay of the log up to its index."""
        self.checkers.applied(group, snapshot.applied, snapshot.chain)

    def _removed(self, group: int) -> None:
        """Leave a tombstone and drop the replica."""
        replica = self.logs[group].replica
        self.tombstones[group] = max(replica, self.tombstones.get(group, -1))
        del self.present[group]
        self.pending.append((self.taken_turn, [books.tombstone(group, ReplicaId(replica))], []))
        self.machine.remove_group(self.round_us, group)
        for table in (self.logs, self.stores, self.checkpointing):
            table.pop(group, None)  # type: ignore[attr-defined]
        for _, request in self.waiting.pop(group).values():
            self.cluster.answer(self, request, "unknown", NOBODY)
        for _, request in self.reads.pop(group):
            self._refuse(request, NOBODY)
        self.disk.checkpoints.pop((group, replica), None)
        self.world.fault("replica.removed")

    # ---- time ----

    def _schedule(self) -> None:
        """The timer stays as it is while nothing is due before it fires."""
        due_us = self.machine.multi.next_deadline_us()
        if due_us == self.due_us:
            return
        self.due_us = -1 if due_us is None else due_us
        self._set_timer()

    def _set_timer(self) -> None:
        if self.due_us < 0:
            return
        at = max(self.clock.when(self.due_us), self.world.now_us)
        if self.timer_us == -1 or at < self.timer_us:
            self.timer_us = at
            self.world.at(at, self._fire, self.life, at)

    def _fire(self, life: int, at: int) -> None:
        if life != self.life or at != self.timer_us:
            return
        self.timer_us = -1
        if 0 <= self.due_us <= self.now():
            self.arrive(self._tick)
        else:
            self._set_timer()


def read_entries(recovered: Recovered) -> dict[int, list[tuple[int, Entry]]]:
    """Live entries by group, with their indexes."""
    found: dict[int, list[tuple[int, Entry]]] = {}
    for array, n in recovered.entries({}):
        for i in range(n):
            row = wal.record_of(array[i])
            entry = Entry(row.term, KIND_OF_WAL[row.kind], len(row.data), row.data)
            found.setdefault(row.group, []).append((row.index, entry))
    return found
