"""Transport over any kind of connection: sessions, queues, calls and answers of one process. The QUIC endpoint and the
simulated network put their connections below it, so both run the same rules.

Invariant: it acts only when called, asks the clock it was given, and touches nothing but `links`. What a peer sends can
end its own session, nothing else. Handlers never see a frame of a connection that was not judged; a handler that raises
is answered `internal`, one that finds a false origin ends the session; an answer counts from the peer that was asked.
flush() is the one place that writes; the owner calls it once per turn when `dirty`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from nodedb_node.config import MIB
from nodedb_node.ids import NodeId, Process
from nodedb_node.native.frame import BadBytes
from nodedb_node.rpc import hello, status
from nodedb_node.rpc.frame import MESSAGE_BYTES_MAX, Flag, Frame, FrameError, Kind, encode
from nodedb_node.rpc.hello import Hello, Local, Refusal, Why
from nodedb_node.rpc.messages import Type
from nodedb_node.rpc.status import AnyStatus, DeadlineExceeded, Internal, OutcomeUnknown, Overloaded
from nodedb_node.transport.answers import AnswerBook
from nodedb_node.transport.interface import (
    Accepted,
    Address,
    Answer,
    Arrival,
    BulkSource,
    Done,
    Full,
    Handlers,
    Message,
    PeerDown,
    PeerUp,
    Spoofed,
)
from nodedb_node.transport.lane import Figures, Lane, LaneStatus, status_of
from nodedb_node.transport.queues import CALLS_MAX, REPLY_RESERVE_BYTES, WINDOW_BYTES, Call, Calls, Waiting
from nodedb_node.transport.registry import Key, Registry, Start
from nodedb_node.transport.session import DRAIN_US, GREETING_US, Event, Session, State
from nodedb_node.transport.transfers import TICK_US, Transfers

GREETING_ID = 1
GREETINGS_MAX = 64  # connections that are not sessions yet
EARLY_BYTES_MAX = 1 * MIB  # of other streams, while the greeting is on its way
REQUESTS_MAX = 4096  # of one session, waiting for our answer
FULL_RETRY_MS = 20
DOWN_RETRY_MS = 100


class Links(Protocol):
    """Connections, by numbers that the hub gives."""

    def dial(self, link: int, address: Address, expected: NodeId, bulk: bool) -> None:
        """Begin; on_open or on_closed follows."""

    def write(self, link: int, kind: Kind, data: bytes) -> None: ...

    def backlog(self, link: int, kind: Kind) -> int:
        """Bytes taken and not acknowledged."""

    def end(self, link: int, why: Why, text: str) -> None:
        """No on_closed follows."""


class Hub:
    """Implements transport.interface.Transport."""

    def __init__(
        self,
        local: Local,
        links: Links,
        handlers: Handlers,
        now_us: Callable[[], int],
        random: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        wake: Callable[[], None],
    ) -> None:
        """wake: called when flush() has something to do that it had not before; it must not call back."""
        self.local = local
        self.figures = Figures(refusals={})
        self.draining = False
        self._touched: set[Lane] = set()
        self._due_us: int | None = None
        self._asked_again: dict[tuple[NodeId, Process, int, int], int] = {}
        self._links = links
        self._handlers = handlers
        self._now_us = now_us
        self._random = random
        self._wake = wake
        self._last_link = 0
        self._lanes: dict[tuple[NodeId, Process], Lane] = {}
        self._sessions: dict[int, Session] = {}
        self._dialling: dict[int, Key] = {}
        self._early: dict[int, list[tuple[Kind, bytes]]] = {}
        self._registry = Registry(local.node_id)
        self._calls = Calls()
        self._answers = AnswerBook()
        self._transfers = Transfers(links, self.figures, self._touch, random_bytes)

    # ---- Transport ----

    def meet(self, peer: NodeId, lane: Process, address: Address) -> None:
        found = self._lane(peer, lane)
        if found.address != address:
            found.address = address
        found.reach.wake(self._now_us())
        self._touch(found)

    def forget(self, peer: NodeId) -> None:
        now = self._now_us()
        for key in [key for key in self._lanes if key[0] == peer]:
            self._lanes[key].address = None
        for session in [one for one in self._sessions.values() if one.key is not None and one.key.peer == peer]:
            self._close(session, Why.REMOVED, "this node was removed", now)
        for call in self._calls.to(peer):
            self._end(call.number, OutcomeUnknown("the peer was removed") if call.link else DeadlineExceeded())
        for key in [key for key in self._lanes if key[0] == peer]:
            self._transfers.forget(self._lanes.pop(key))
        self._registry.forget(peer)

    def send(self, peer: NodeId, lane: Process, kind: Kind, message: Message) -> Accepted | Full:
        found = self._lanes.get((peer, lane))
        if found is None or found.link is None:
            return self._full("no session with this lane", DOWN_RETRY_MS)
        frame = Frame(message.type, Flag.ONEWAY, kind, 0, 0, message.body)
        if not found.queues[kind].offer(Waiting(frame, 0, 0)):
            return self._full(f"{kind.name.lower()} queue", FULL_RETRY_MS)
        self._touch(found)
        return Accepted()

    def call(
        self,
        peer: NodeId,
        lane: Process,
        kind: Kind,
        message: Message,
        deadline_ms: int,
        done: Done,
        again: bool = False,
    ) -> Accepted | Full:
        assert deadline_ms > 0
        now = self._now_us()
        found = self._lanes.get((peer, lane))
        if found is None or (found.address is None and found.link is None):
            return self._full("this lane is not known", DOWN_RETRY_MS)
        if len(self._calls) >= CALLS_MAX:
            return self._full("calls", FULL_RETRY_MS)
        if kind is Kind.QUERY and (wait_ms := found.breaker.admit(now)):
            return self._full("the lane cannot be reached", wait_ms)
        number = self._calls.next_number()
        frame = Frame(message.type, Flag.REQUEST, kind, number, deadline_ms, message.body)
        deadline_us = now + deadline_ms * 1000
        if not found.queues[kind].offer(Waiting(frame, number, deadline_us)):
            return self._full(f"{kind.name.lower()} queue", FULL_RETRY_MS)
        self._calls.add(Call(number, peer, lane, frame, deadline_us, done, again))
        self.figures.calls += 1
        self._remind(deadline_us)
        self._touch(found)
        return Accepted(number)

    def cancel(self, number: int) -> None:
        call = self._calls.end(number)
        if call is not None and call.link:
            self._tell_cancel(call)

    def reply(self, arrival: Arrival, result: Answer | AnyStatus) -> None:
        if isinstance(result, Answer):
            flags, body = int(Flag.REPLY), result.body
        else:
            flags, body = Flag.REPLY | Flag.ERROR, status.encode(result)
        if len(body) > MESSAGE_BYTES_MAX[arrival.kind]:
            flags, body = Flag.REPLY | Flag.ERROR, status.encode(Internal("the answer is too large for its class"))
        self._answers.end((arrival.peer, arrival.lane, arrival.generation), arrival.id, (arrival.type, flags, body))
        again = self._asked_again.pop((arrival.peer, arrival.lane, arrival.generation, arrival.id), arrival.session)
        session = self._sessions.get(again)
        if session is not None and session.greeted and arrival.id in session.requests:
            session.requests.discard(arrival.id)
            self._answer(session, Frame(arrival.type, flags, arrival.kind, arrival.id, 0, body))
        # Otherwise it was cancelled, or the session is gone: who asks again gets it from the book.

    def bulk(
        self, peer: NodeId, lane: Process, purpose: str, argument: bytes, source: BulkSource, done: Done
    ) -> Accepted | Full:
        found = self._lanes.get((peer, lane))
        if found is None or found.address is None:
            return self._full("this lane is not known", DOWN_RETRY_MS)
        number = self._calls.next_number()
        now = self._now_us()
        if self._transfers.begin(found, number, purpose, argument, source, done, now):
            self._touch(found)
            self._remind(now + TICK_US)
            return Accepted(number)
        return self._full("bulk transfers", DOWN_RETRY_MS)

    # ---- what connections tell ----

    def new_link(self) -> int:
        """The number of a connection that a peer dialled."""
        self._last_link += 1
        return self._last_link

    def on_open(self, link: int, certified: NodeId | None) -> None:
        """Encrypted, and the peer's certificate was judged; certified: whom it names, None in insecure mode."""
        now = self._now_us()
        key = self._dialling.get(link)
        session = Session(link, key is not None, certified, now, key is not None and key.bulk)
        if self.draining or (key is None and self._greeting() >= GREETINGS_MAX):
            self._refuse(session, Refusal(Why.GOODBYE if self.draining else Why.BUSY, "no new sessions now"))
            return
        self._sessions[link] = session
        self._remind(now + GREETING_US)
        if key is not None:
            greeting = hello.encode(self.local.hello(key.lane, key.bulk))
            self._write(session, Frame(Type.HELLO, Flag.REQUEST, Kind.CONTROL, GREETING_ID, 0, greeting))

    def on_data(self, link: int, kind: Kind, data: bytes) -> None:
        """Bytes of the stream of a class, in order."""
        session = self._sessions.get(link)
        if session is None or session.state is State.CLOSED:
            return
        self.figures.bytes_in += len(data)
        try:
            if session.greeted:
                self._read(session, kind, data)
            else:
                self._read_greeting(session, kind, data)
        except BadBytes as error:
            self._close(session, Why.GARBLED, str(error), self._now_us())
        except Spoofed as error:
            self._close(session, Why.SPOOFED, str(error), self._now_us())

    def on_closed(self, link: int, why: Why | None, text: str) -> None:
        """The connection is no more: the peer's reason, or None when it was lost."""
        now = self._now_us()
        key = self._dialling.pop(link, None)
        session = self._sessions.get(link)
        if why is not None and why is not Why.GOODBYE:
            self.figures.refused_out += 1
            self._count(f"out.{why.name.lower()}")
        reason = f"{why.name.lower()}: {text}" if why is not None else text
        if session is not None:
            self._gone(session, reason, now)
        if key is not None:
            self._dial_failed(key, reason, now)

    def on_acked(self, link: int) -> None:
        """Part of the backlog is gone."""
        session = self._sessions.get(link)
        if session is None or session.key is None:
            return
        if session.state is State.DRAINING:
            self._close_drained(session)
        lane = self._lanes.get((session.key.peer, session.key.lane))
        if lane is not None and (lane.queued_bytes or lane.outgoing):
            self._touch(lane)

    @property
    def dirty(self) -> bool:
        """Whether flush() has something to do."""
        return bool(self._touched)

    # ---- turns and time ----

    def flush(self) -> None:
        """Dial what is due, write what may be written."""
        now = self._now_us()
        touched = list(self._touched)
        self._touched.clear()
        for lane in touched:
            if not self.draining:
                self._dial(lane, now)
            if lane.link is not None:
                self._flush_lane(lane, lane.link, now)
            if lane.bulk_link is not None and self._transfers.flush(lane, lane.bulk_link, now):
                self._touch(lane)

    def tick(self) -> None:
        """Whatever next_deadline_us() announced."""
        now = self._now_us()
        for session in [one for one in self._sessions.values() if one.late_us is not None and one.late_us <= now]:
            why = Why.GOODBYE if session.greeted else Why.GARBLED
            self._close(session, why, "drained" if session.greeted else "no greeting in time", now)
        for call in self._calls.expired(now):
            self._late(call)
        for link in self._transfers.tick(self._lanes.values(), now):
            self._drain(self._sessions[link], now)
        due = [one.late_us for one in self._sessions.values() if one.late_us is not None]
        if not self.draining:
            for lane in self._lanes.values():
                at = self._dial_due(lane)
                if at is not None and at <= now:
                    self._touch(lane)
                elif at is not None:
                    due.append(at)
        calls = self._calls.next_deadline_us()
        due += [] if calls is None else [calls]
        due += [now + TICK_US] if self._transfers.active else []
        self._due_us = min(due, default=None)

    def next_deadline_us(self) -> int | None:
        """When tick() is due, None = never. What flush() does is due at once, while `dirty`."""
        return self._due_us

    def drain(self) -> None:
        """Tell every peer that this process ends: nothing new is taken, what was asked is answered."""
        self.draining = True
        now = self._now_us()
        for session in list(self._sessions.values()):
            self._drain(session, now)
        self.flush()

    def replace(self, link: int) -> None:
        """End a session in order, for a new one to take its place: what was asked on it is answered on it."""
        session = self._sessions.get(link)
        if session is not None and session.state is not State.DRAINING:
            self._drain(session, self._now_us())

    @property
    def drained(self) -> bool:
        return not self._sessions

    def close(self) -> None:
        """End every session at once."""
        now = self._now_us()
        for session in list(self._sessions.values()):
            self._close(session, Why.GOODBYE, "this process ends", now)

    def disconnect(self, unwanted: Callable[[NodeId | None], bool], why: Why, text: str) -> None:
        """End the sessions of peers whose certificates are not good any more."""
        for session in [one for one in self._sessions.values() if unwanted(one.certified)]:
            self._close(session, why, text, self._now_us())

    def lanes(self) -> list[LaneStatus]:
        return [status_of(lane) for lane in self._lanes.values()]

    def session(self, link: int) -> Session | None:
        return self._sessions.get(link)

    def link_of(self, peer: NodeId, lane: Process) -> int | None:
        found = self._lanes.get((peer, lane))
        return None if found is None else found.link

    # ---- greeting ----

    def _read_greeting(self, session: Session, kind: Kind, data: bytes) -> None:
        if kind is not Kind.CONTROL:
            early = self._early.setdefault(session.link, [])
            early.append((kind, data))
            if sum(len(part) for _, part in early) > EARLY_BYTES_MAX:
                raise FrameError("too much before the greeting")
            return
        reader = session.readers[Kind.CONTROL]
        for frame in reader.feed(data, 1):
            if not self._greet(session, frame):
                return
        if session.greeted:
            self._read(session, Kind.CONTROL, b"")
            for early_kind, part in self._early.pop(session.link, []):
                self._read(session, early_kind, part)

    def _greet(self, session: Session, frame: Frame) -> bool:
        """Judge the peer's greeting; True when this is a session now."""
        now = self._now_us()
        wanted = (Type.WELCOME, Flag.REPLY) if session.dialled else (Type.HELLO, Flag.REQUEST)
        if (frame.type, frame.flags) != wanted or frame.id != GREETING_ID:
            raise FrameError("a session begins with a greeting")
        peer = hello.decode_hello(frame.body)
        found = self._judge(session, peer) if isinstance(peer, Hello) else peer
        if isinstance(found, Refusal):
            self._refuse(session, found)
            return False
        assert isinstance(peer, Hello)
        key = Key(peer.node_id, peer.lane, peer.bulk, session.dialled and peer.bulk)
        start = Start(peer.generation, peer.nonce)
        admission = self._registry.admit(key, start, session.link, session.dialled)
        if isinstance(admission, Refusal):
            clones = self._registry.clone_links(key) if admission.why is Why.CLONE else ()
            self._refuse(session, admission)
            for link in clones:
                self._close(self._sessions[link], Why.CLONE, admission.text, now)
            return False
        if not session.dialled:
            welcome = hello.encode(self.local.hello(peer.lane, peer.bulk))
            self._write(session, Frame(Type.WELCOME, Flag.REPLY, Kind.CONTROL, GREETING_ID, 0, welcome))
        moved = session.move(Event.WELCOME if session.dialled else Event.HELLO, now)
        assert moved
        self._dialling.pop(session.link, None)
        session.key, session.generation, session.version, session.bulk = key, peer.generation, found, peer.bulk
        session.since_us, session.software = now, peer.software
        self.figures.sessions += 1
        for old, why in admission.close:
            self._close(self._sessions[old], why, "a newer start of this process is here", now)
        self._answers.forget(key.peer, key.lane, peer.generation)
        if admission.active:
            self._activate(session, key)
        for old in admission.drain if admission.active else (session.link,):
            self._drain(self._sessions[old], now)
        return True

    def _judge(self, session: Session, peer: Hello) -> int | Refusal:
        key = self._dialling.get(session.link)
        dialled = key.peer if key is not None and key.peer != hello.ANYONE else None
        verdict = hello.judge(self.local, peer, session.certified, dialled)
        if isinstance(verdict, Refusal):
            return verdict
        wanted = key is None or key.lane == hello.ANY_LANE or (peer.lane, peer.bulk) == (key.lane, key.bulk)
        if peer.to_lane not in (self.local.lane, hello.ANY_LANE) or not wanted:
            return Refusal(Why.IDENTITY, f"lane {peer.to_lane} is wanted, this is lane {self.local.lane}")
        return verdict

    def _activate(self, session: Session, key: Key) -> None:
        """This session is the one to send on."""
        now = self._now_us()
        lane = self._lane(key.peer, key.lane)
        if key.bulk:
            if session.dialled:
                lane.bulk_reach.up(now)
                lane.bulk_link = session.link
                self._transfers.up(lane, now)
                self._remind(now + TICK_US)
        else:
            was = (lane.link is not None, lane.generation)
            lane.link, lane.generation, lane.version = session.link, session.generation, session.version
            lane.reach.up(now)
            lane.breaker.connected()
            if was != (True, session.generation):
                self._handlers.on_peer(PeerUp(key.peer, key.lane, session.generation))
        self._touch(lane)

    # ---- frames ----

    def _read(self, session: Session, kind: Kind, data: bytes) -> None:
        reader = session.reader(kind)
        if reader is None:
            raise FrameError(f"class {kind.name} has no place on this connection")
        for frame in reader.feed(data):
            if not session.greeted:
                return
            self.figures.frames_in += 1
            self._frame(session, frame)

    def _frame(self, session: Session, frame: Frame) -> None:
        role = frame.flags & ~Flag.ERROR
        if frame.type <= Type.FAREWELL:
            self._session_frame(session, frame)
        elif frame.kind is Kind.BULK:
            self._transfers.on_frame(session, frame, self._handlers, self._now_us())
        elif role == Flag.REPLY:
            self._on_reply(session, frame)
        elif role == Flag.CANCEL:
            session.requests.discard(frame.id)
        else:
            self._on_message(session, frame)

    def _session_frame(self, session: Session, frame: Frame) -> None:
        if frame.type not in (Type.GOAWAY, Type.FAREWELL) or frame.flags != Flag.ONEWAY:
            raise FrameError("a greeting after the greeting")
        if frame.type == Type.FAREWELL:
            if not session.heard_goaway:
                raise FrameError("a farewell without a goodbye")
            session.heard_farewell = True
            self._close_drained(session)
            return
        session.heard_goaway = True
        now = self._now_us()
        session.move(Event.GOAWAY, now)
        self._inactive(session, "the peer ends", now)
        self._drain(session, now)

    def _on_reply(self, session: Session, frame: Frame) -> None:
        call, key = self._calls.get(frame.id), session.key
        if call is not None and (key is None or (call.peer, call.lane) != (key.peer, key.lane)):
            raise Spoofed(f"the answer to call {frame.id}, which is another peer's to give")
        if frame.flags & Flag.ERROR:
            self._end(frame.id, status.decode(frame.body))
        else:
            self._end(frame.id, Answer(frame.body))

    def _on_message(self, session: Session, frame: Frame) -> None:
        assert session.key is not None
        now, key = self._now_us(), session.key
        asker = (key.peer, key.lane, session.generation)
        if frame.id:
            if len(session.requests) >= REQUESTS_MAX:
                body = status.encode(Overloaded(FULL_RETRY_MS, "requests"))
                self._answer(session, Frame(frame.type, Flag.REPLY | Flag.ERROR, frame.kind, frame.id, 0, body))
                return
            session.requests.add(frame.id)
            before = self._answers.begin(asker, frame.id)
            if before is not True:
                self._again(session, frame, before)
                return
        arrival = Arrival(
            peer=key.peer,
            lane=key.lane,
            generation=session.generation,
            kind=frame.kind,
            type=frame.type,
            body=frame.body,
            id=frame.id,
            deadline_us=now + frame.deadline_ms * 1000 if frame.deadline_ms else 0,
            session=session.link,
            version=session.version,
        )
        self._handle(arrival)

    def _again(self, session: Session, frame: Frame, before: tuple[int, int, bytes] | bool) -> None:
        """Asked before: the answer, if there is one already; otherwise it comes to this session."""
        self.figures.duplicates += 1
        if isinstance(before, tuple):
            session.requests.discard(frame.id)
            type_, flags, body = before
            self._answer(session, Frame(type_, flags, frame.kind, frame.id, 0, body))
        else:
            assert session.key is not None
            self._asked_again[(session.key.peer, session.key.lane, session.generation, frame.id)] = session.link

    def _handle(self, arrival: Arrival) -> None:
        try:
            self._handlers.on_frame(arrival)
        except Spoofed:
            raise
        except Exception as error:  # noqa: BLE001 - a handler's failure is the caller's answer, never the session's end
            self._count("handler_errors")
            if arrival.id:
                self.reply(arrival, Internal(f"{type(error).__name__}: {error}"[: status.TEXT_MAX]))

    # ---- sessions end ----

    def _drain(self, session: Session, now: int) -> None:
        """Nothing new from us on it; it is closed when both are done, or late."""
        if not session.greeted:
            self._close(session, Why.GOODBYE, "not needed any more", now)
            return
        session.move(Event.DRAIN, now)
        self._remind(now + DRAIN_US)
        self._inactive(session, "drained", now)
        if not session.said_goaway:
            session.said_goaway = True
            self._write(session, Frame(Type.GOAWAY, Flag.ONEWAY, Kind.CONTROL, 0, 0, b""))
        self._close_drained(session)

    def _close_drained(self, session: Session) -> None:
        """Farewell once we are owed nothing; the end when neither owes anything. A goodbye says less: it comes before
        the rest of what was asked before it, because its class goes first."""
        if session.state is not State.DRAINING or not session.said_goaway:
            return
        if not session.said_farewell and not self._calls.on_link(session.link):
            session.said_farewell = True
            self._write(session, Frame(Type.FAREWELL, Flag.ONEWAY, Kind.CONTROL, 0, 0, b""))
        if session.said_farewell and session.heard_farewell and not session.requests:
            backlog = sum(self._links.backlog(session.link, kind) for kind in Kind)
            if backlog == 0:
                self._close(session, Why.GOODBYE, "drained", self._now_us())

    def _inactive(self, session: Session, why: str, now: int) -> None:
        """Not to be sent on any more; calls that wait in queues stay there for the next session."""
        key = session.key
        if key is None:
            return
        self._registry.gone(key, session.link)
        lane = self._lanes.get((key.peer, key.lane))
        if lane is not None and lane.link == session.link:
            if session.state is State.DRAINING:
                self._flush_rest(lane, session)
            lane.link = None
            lane.reach.lost(now, why)
            self._remind(lane.reach.due_us())
            for queue in lane.queues.values():
                queue.drop_oneway()
            self._handlers.on_peer(PeerDown(key.peer, key.lane, session.generation, why))
        elif lane is not None and lane.bulk_link == session.link:
            lane.bulk_link = None
            lane.bulk_reach.lost(now, why)
            self._remind(lane.bulk_reach.due_us())
            self._transfers.down(lane)

    def _close(self, session: Session, why: Why, text: str, now: int) -> None:
        """Our own end of it."""
        if session.state is State.CLOSED:
            return
        self._links.end(session.link, why, text)
        if why is not Why.GOODBYE:
            self._count(f"in.{why.name.lower()}")
            self.figures.refused_in += 1
        key = self._dialling.pop(session.link, None)
        self._gone(session, f"{why.name.lower()}: {text}", now)
        if key is not None:
            self._dial_failed(key, text, now)

    def _refuse(self, session: Session, refusal: Refusal) -> None:
        self._sessions.setdefault(session.link, session)
        self._close(session, refusal.why, refusal.text, self._now_us())

    def _gone(self, session: Session, why: str, now: int) -> None:
        """However it ended: calls given to it are asked again or unknown."""
        session.move(Event.LOST, now)
        session.state = State.CLOSED
        self._sessions.pop(session.link, None)
        self._early.pop(session.link, None)
        key = session.key
        if key is None:
            return
        self.figures.lost += 1
        lane = self._lanes.get((key.peer, key.lane))
        if lane is not None and lane.link == session.link:
            lane.breaker.unreachable(now)
        self._inactive(session, why, now)
        self._ask_again(lane, self._calls.on_link(session.link), why)
        for asked in [asked for asked, link in self._asked_again.items() if link == session.link]:
            del self._asked_again[asked]
        self._forget_stranger(lane)

    def _ask_again(self, lane: Lane | None, calls: Iterable[Call], why: str) -> None:
        for call in sorted(calls, key=lambda one: one.number, reverse=True):
            if call.again and lane is not None:
                call.link = 0
                lane.queues[call.frame.kind].put_back(Waiting(call.frame, call.number, call.deadline_us))
            else:
                self.figures.calls_unknown += 1
                self._end(call.number, OutcomeUnknown(why))

    def _forget_stranger(self, lane: Lane | None) -> None:
        """A lane without address exists for its session only."""
        if lane is None or lane.link is not None or lane.address is not None or lane.outgoing:
            return
        keys = [one.key for one in self._sessions.values() if one.key is not None]
        if not any((key.peer, key.lane) == (lane.peer, lane.lane) for key in keys):
            for number in [waiting.number for queue in lane.queues.values() for waiting in queue]:
                self._end(number, DeadlineExceeded())
            self._lanes.pop((lane.peer, lane.lane), None)

    # ---- small things ----

    def _lane(self, peer: NodeId, lane: Process) -> Lane:
        found = self._lanes.get((peer, lane))
        if found is None:
            found = self._lanes[(peer, lane)] = Lane(peer, lane, self._random)
        return found

    def _touch(self, lane: Lane) -> None:
        if not self._touched:
            self._wake()
        self._touched.add(lane)

    def _greeting(self) -> int:
        return sum(one.state is State.AWAITING for one in self._sessions.values())

    def _remind(self, at_us: int | None) -> None:
        """tick() is wanted by then."""
        if at_us is not None and (self._due_us is None or at_us < self._due_us):
            self._due_us = at_us

    def _dial_due(self, lane: Lane) -> int | None:
        if lane.address is None:
            return None
        if lane.link is None:
            return lane.reach.due_us()
        return lane.bulk_reach.due_us() if lane.outgoing and lane.bulk_link is None else None

    def _dial(self, lane: Lane, now: int) -> None:
        due = self._dial_due(lane)
        if due is None or due > now or lane.address is None:
            return
        bulk = lane.link is not None
        key = Key(lane.peer, lane.lane, bulk, bulk)
        if key in self._dialling.values():
            return
        (lane.bulk_reach if bulk else lane.reach).dialling()
        link = self.new_link()
        self._dialling[link] = key
        self.figures.dials += 1
        self._links.dial(link, lane.address, lane.peer, bulk)

    def _dial_failed(self, key: Key, why: str, now: int) -> None:
        lane = self._lanes.get((key.peer, key.lane))
        if lane is None:
            return
        reach = lane.bulk_reach if key.bulk else lane.reach
        if reach.due_us() is None and (lane.bulk_link if key.bulk else lane.link) is None:
            reach.failed(now, why)
            self._remind(reach.due_us())
            if not key.bulk:
                lane.breaker.unreachable(now)

    def _flush_lane(self, lane: Lane, link: int, now: int) -> None:
        for kind, queue in lane.queues.items():
            if not len(queue):
                continue
            room = WINDOW_BYTES[kind] - self._links.backlog(link, kind)
            pieces: list[bytes] = []
            for waiting in queue.take(room):
                self._give(waiting, link, now, pieces)
            if pieces:
                data = b"".join(pieces)
                self.figures.bytes_out += len(data)
                self._links.write(link, kind, data)

    def _flush_rest(self, lane: Lane, session: Session) -> None:
        """Before a drain: what nobody else will send, messages and answers; calls wait for the next session."""
        for kind, queue in lane.queues.items():
            pieces = [piece for waiting in queue if not waiting.number for piece in encode(waiting.frame)]
            if pieces:
                self._links.write(session.link, kind, b"".join(pieces))

    def _give(self, waiting: Waiting, link: int, now: int, pieces: list[bytes]) -> None:
        """One frame to the connection; a call that ended meanwhile is left out."""
        frame = waiting.frame
        if waiting.number:
            call = self._calls.get(waiting.number)
            if call is None:
                return
            call.link, call.sent_us = link, now
            left = max(1, (waiting.deadline_us - now) // 1000)
            frame = Frame(frame.type, frame.flags, frame.kind, frame.id, left, frame.body)
        self.figures.frames_out += 1
        pieces += encode(frame)

    def _write(self, session: Session, frame: Frame) -> None:
        """Beside the queues: greetings, goodbyes, answers on a session that is being drained."""
        data = b"".join(encode(frame))
        self.figures.frames_out += 1
        self.figures.bytes_out += len(data)
        self._links.write(session.link, frame.kind, data)

    def _answer(self, session: Session, frame: Frame) -> None:
        """In order with everything else of its class where the session is the one in use."""
        assert session.key is not None
        lane = self._lanes.get((session.key.peer, session.key.lane))
        if lane is not None and lane.link == session.link:
            if not lane.queues[frame.kind].offer(Waiting(frame, 0, 0), REPLY_RESERVE_BYTES):
                self.figures.full += 1
                body = status.encode(Overloaded(FULL_RETRY_MS, "answers"))
                self._write(session, Frame(frame.type, Flag.REPLY | Flag.ERROR, frame.kind, frame.id, 0, body))
            self._touch(lane)
        else:
            self._write(session, frame)
            self._close_drained(session)

    def _end(self, number: int, result: Answer | AnyStatus) -> None:
        call = self._calls.end(number)
        if call is None:
            return
        call.done(result)
        session = self._sessions.get(call.link)
        if session is not None and session.state is State.DRAINING:
            self._close_drained(session)

    def _late(self, call: Call) -> None:
        self.figures.calls_late += 1
        if call.link:
            self._tell_cancel(call)
            call.done(OutcomeUnknown("no answer within the deadline"))
        else:
            call.done(DeadlineExceeded())

    def _tell_cancel(self, call: Call) -> None:
        session = self._sessions.get(call.link)
        if session is not None and session.greeted:
            self._write(session, Frame(call.frame.type, Flag.CANCEL, call.frame.kind, call.number, 0, b""))

    def _full(self, why: str, retry_ms: int) -> Full:
        self.figures.full += 1
        return Full(why, retry_ms)

    def _count(self, name: str) -> None:
        self.figures.refusals[name] = self.figures.refusals.get(name, 0) + 1
