"""The bulk transfers of a process: which lane's bulk connection carries what, both ways. Pure; bulk.py has the rules.

Invariant: a transfer ends once: complete, refused, aborted, or after a minute without progress. The bulk connection is
dialled when there is something to send and closed after some seconds without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from nodedb_node.rpc import messages, status
from nodedb_node.rpc.frame import Flag, Frame, FrameError, Kind, encode
from nodedb_node.rpc.messages import Type
from nodedb_node.rpc.status import AnyStatus, Internal, OutcomeUnknown, Status
from nodedb_node.transport.bulk import IDLE_US, TURN_BYTES, Incomings, Outgoing
from nodedb_node.transport.interface import Answer, BulkOffer, BulkSource, Done, Handlers
from nodedb_node.transport.lane import Figures, Lane
from nodedb_node.transport.queues import WINDOW_BYTES
from nodedb_node.transport.session import Session

OUTGOING_MAX = 64  # of one lane
CLOSE_IDLE_US = 10_000_000
TICK_US = 1_000_000


class Connections(Protocol):
    def write(self, link: int, kind: Kind, data: bytes) -> None: ...
    def backlog(self, link: int, kind: Kind) -> int: ...


class Transfers:
    """Both directions."""

    def __init__(
        self, links: Connections, figures: Figures, touch: Callable[[Lane], None], random_bytes: Callable[[int], bytes]
    ) -> None:
        self._links = links
        self._figures = figures
        self._touch = touch
        self._random_bytes = random_bytes
        self._incoming = Incomings()
        self._sending: dict[bytes, tuple[Lane, Outgoing]] = {}

    def begin(
        self, lane: Lane, number: int, purpose: str, argument: bytes, source: BulkSource, done: Done, now_us: int
    ) -> bool:
        """False: too many of them."""
        if len(lane.outgoing) >= OUTGOING_MAX:
            return False
        transfer = self._random_bytes(messages.TRANSFER_BYTES)
        out = Outgoing(number, transfer, purpose, argument, source, done, now_us)
        lane.outgoing[number] = out
        self._sending[transfer] = (lane, out)
        if lane.bulk_link is not None:
            self._open(lane.bulk_link, out)
        else:
            lane.bulk_reach.wake(now_us)
        return True

    def up(self, lane: Lane, now_us: int) -> None:
        """The lane's bulk connection is a session."""
        assert lane.bulk_link is not None
        lane.bulk_idle_us = now_us
        for out in lane.outgoing.values():
            self._open(lane.bulk_link, out)

    def down(self, lane: Lane) -> None:
        for out in lane.outgoing.values():
            out.lost()

    def forget(self, lane: Lane) -> None:
        """The peer is gone for good."""
        for out in list(lane.outgoing.values()):
            self._end(lane, out, OutcomeUnknown("the peer was removed"))
        self._incoming.forget(lane.peer)

    def flush(self, lane: Lane, link: int, now_us: int) -> bool:
        """Chunks of all transfers of the lane, in turns; True: there is more to do in the next turn."""
        room = min(TURN_BYTES, WINDOW_BYTES[Kind.BULK] - self._links.backlog(link, Kind.BULK))
        outs = list(lane.outgoing.values())
        sent = 0
        for out in outs:
            if room - sent <= 0:
                break
            share = max(1, (room - sent) // len(outs))
            sent += out.pump(lambda number, body: self._put(link, number, body), share)
        self._figures.bulk_bytes_out += sent
        if lane.outgoing:
            lane.bulk_idle_us = now_us
        return sent > 0

    def tick(self, lanes: Iterable[Lane], now_us: int) -> list[int]:
        """Ends what stands still; returns links that have nothing to do any more."""
        unused = []
        for lane in lanes:
            for out in list(lane.outgoing.values()):
                if now_us - out.heard_us > IDLE_US:
                    if lane.bulk_link is not None:
                        self._put(lane.bulk_link, Type.BULK_ABORT, self._abort_body(out, "stood still for too long"))
                    self._end(lane, out, OutcomeUnknown("the transfer stood still for too long"))
            if lane.bulk_link is not None and not lane.outgoing and now_us - lane.bulk_idle_us > CLOSE_IDLE_US:
                unused.append(lane.bulk_link)
        self._incoming.idle(now_us)
        return unused

    @property
    def active(self) -> bool:
        """Whether tick() has something to watch."""
        return bool(self._sending) or len(self._incoming) > 0

    def on_frame(self, session: Session, frame: Frame, handlers: Handlers, now_us: int) -> None:
        """A frame of the bulk class."""
        assert session.key is not None
        match frame.type, frame.flags & ~Flag.ERROR:
            case Type.BULK_OPEN, Flag.REQUEST:
                self._on_open(session, frame, handlers, now_us)
            case Type.BULK_OPEN, Flag.REPLY:
                self._on_answer(session, frame, now_us)
            case Type.BULK_CHUNK, Flag.ONEWAY:
                transfer, offset, data = messages.decode_chunk(frame.body)
                self._figures.bulk_bytes_in += len(data)
                name = (session.key.peer, session.key.lane, transfer)
                self._put(session.link, *self._incoming.chunk(name, offset, data, now_us))
            case Type.BULK_CREDIT, Flag.ONEWAY:
                self._on_credit(session, frame, now_us)
            case Type.BULK_ABORT, Flag.ONEWAY:
                self._on_abort(session, frame)
            case _:
                raise FrameError(f"type {frame.type} is not one of bulk's")

    def _on_open(self, session: Session, frame: Frame, handlers: Handlers, now_us: int) -> None:
        assert session.key is not None
        opened = messages.decode_open(frame.body)
        offer = BulkOffer(
            peer=session.key.peer,
            lane=session.key.lane,
            transfer=opened.transfer,
            purpose=opened.purpose,
            size=opened.size,
            argument=opened.argument,
        )
        try:
            found = self._incoming.open(offer, now_us, handlers.on_bulk)
        except Exception as error:  # noqa: BLE001 - as for requests: a handler's failure is the sender's answer
            found = Internal(f"{type(error).__name__}: {error}"[: status.TEXT_MAX])
        if isinstance(found, Status):
            reply = Frame(frame.type, Flag.REPLY | Flag.ERROR, Kind.BULK, frame.id, 0, status.encode(found))
        else:
            reply = Frame(frame.type, Flag.REPLY, Kind.BULK, frame.id, 0, messages.encode(found))
        self._links.write(session.link, Kind.BULK, b"".join(encode(reply)))

    def _mine(self, session: Session, transfer: bytes) -> tuple[Lane, Outgoing] | None:
        """The transfer, when it is one that goes to this peer over this connection."""
        found = self._sending.get(transfer)
        return found if found is not None and found[0].bulk_link == session.link else None

    def _on_answer(self, session: Session, frame: Frame, now_us: int) -> None:
        """BulkAnswer or a status: the reply's id is the transfer's number."""
        assert session.key is not None
        for lane, out in list(self._sending.values()):
            if out.number == frame.id and lane.bulk_link == session.link:
                if frame.flags & Flag.ERROR:
                    self._end(lane, out, status.decode(frame.body))
                else:
                    out.opened(messages.decode_answer(frame.body), now_us)
                    self._progress(lane, out)
                return

    def _on_credit(self, session: Session, frame: Frame, now_us: int) -> None:
        transfer, received, allowed = messages.decode_credit(frame.body)
        found = self._mine(session, transfer)
        if found is not None:
            found[1].credit(received, allowed, now_us)
            self._progress(*found)

    def _on_abort(self, session: Session, frame: Frame) -> None:
        assert session.key is not None
        aborted = messages.decode_abort(frame.body)
        found = self._mine(session, aborted.transfer)
        if found is not None:
            self._end(*found, Internal(aborted.why[: status.TEXT_MAX]))
        else:
            self._incoming.abort((session.key.peer, session.key.lane, aborted.transfer), aborted.why)

    def _progress(self, lane: Lane, out: Outgoing) -> None:
        if out.complete:
            self._end(lane, out, Answer(b""))
        else:
            self._touch(lane)

    def _end(self, lane: Lane, out: Outgoing, result: Answer | AnyStatus) -> None:
        if lane.outgoing.pop(out.number, None) is not None:
            del self._sending[out.transfer]
            out.done(result)

    def _abort_body(self, out: Outgoing, why: str) -> bytes:
        return messages.encode(messages.BulkAbort(out.transfer, why))

    def _open(self, link: int, out: Outgoing) -> None:
        frame = Frame(Type.BULK_OPEN, Flag.REQUEST, Kind.BULK, out.number, 0, out.opening())
        self._links.write(link, Kind.BULK, b"".join(encode(frame)))

    def _put(self, link: int, number: Type, body: bytes) -> None:
        self._links.write(link, Kind.BULK, b"".join(encode(Frame(number, Flag.ONEWAY, Kind.BULK, 0, 0, body))))
