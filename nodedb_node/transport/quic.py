"""The lane endpoint of a process: one UDP socket, many QUIC connections, one turn. World file: sockets, clock, timers.

Invariant: per wake-up it reads many datagrams, feeds all, collects events once, lets the hub write, and transmits once
per connection. Connections of large bodies come after all others, one slice per turn: whatever they carry, a heartbeat
waits for a slice at each end. No byte of a stream is handed on before the peer's certificate was judged, in both
directions; a refused connection is closed with its reason and never read again. Datagrams of strangers cost bounded
memory and are answered less than they send. What lanes mean is hub's part; what aioquic keeps to itself is lanequic's.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import random
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from aioquic._buffer import Buffer
from aioquic.quic import events
from aioquic.quic.packet import QuicPacketType, encode_quic_version_negotiation, pull_quic_header
from cryptography import x509
from msgspec import Struct

from nodedb_node import log
from nodedb_node.config import MIB
from nodedb_node.ids import NodeId, Process
from nodedb_node.lograte import LineRate
from nodedb_node.native.udp import Udp
from nodedb_node.rpc.frame import Kind
from nodedb_node.rpc.hello import Local, Why
from nodedb_node.transport.credentials.live import Own
from nodedb_node.transport.credentials.reasons import Reason, Refusal
from nodedb_node.transport.credentials.verify import Expected, PeerIdentity
from nodedb_node.transport.hub import Hub
from nodedb_node.transport.interface import Address, Handlers
from nodedb_node.transport.lanequic import (
    CID_BYTES,
    DATAGRAM_MAX,
    DATAGRAM_MIN,
    KEEPALIVE_S,
    TURN_DATAGRAMS,
    LaneQuic,
    configuration,
)

BULK_WAITING_MAX = 2048  # datagrams of large bodies, read and not fed; those above are lost, as a full socket's are
SOCKET_BUFFER_BYTES = 8 * MIB
HANDSHAKE_S = 3.0  # from the first datagram to an encrypted connection
DIAL_S = 1.5
SUSPECT_S = 0.05
HANDSHAKES_MAX = 256  # of strangers, at the same time
RESETS_PER_S = 100
CLOSE_REPEATS = 8  # a close is not acknowledged: it is said again to a peer that goes on sending
CLOSED_S = 1.0
REFUSED_LINE = 0  # kind of log line: strangers must not fill the log
UDP_HEADERS = {False: 28, True: 48}  # by whether the address is IPv6

WHY_OF_REASON: dict[Reason, Why] = {
    Reason.NO_CERTIFICATE: Why.NO_CERTIFICATE,
    Reason.OTHER_CLUSTER: Why.CLUSTER_MISMATCH,
    Reason.REMOVED_NODE: Why.REMOVED,
    Reason.UNKNOWN_NODE: Why.NOT_MEMBER,
}


class Credentials(Protocol):
    """Who we are and whom we let in; both may change at any time."""

    def own(self) -> Own: ...
    def judge(self, chain_der: Sequence[bytes], expected: Expected) -> PeerIdentity | Refusal: ...

    @property
    def insecure(self) -> bool:
        """No certificate is demanded or judged: cluster id and generation alone."""

    def reset_key(self) -> bytes:
        """A secret that the next start of this node has too."""

    def reload(self) -> bool:
        """Take over what changed; True: peers are to be judged again."""


class EndpointFigures(Struct):
    """Counted since the start."""

    handshakes: int = 0
    handshakes_refused: int = 0  # by certificate
    handshakes_late: int = 0
    strangers: int = 0  # datagrams of no connection
    resets_out: int = 0
    resets_in: int = 0
    holes: int = 0
    lost_packets: int = 0
    bulk_dropped: int = 0  # datagrams above BULK_WAITING_MAX


class Conn:
    """A connection of the endpoint."""

    __slots__ = (
        *("addr", "bulk", "cids", "closing", "dead", "dialled", "due", "expected", "identity", "judged", "link"),
        *("began", "pinged", "quic", "repeats", "probed", "said_open", "shown", "suspect", "until"),
    )

    def __init__(self, quic: LaneQuic, addr: tuple[str, int], dialled: bool, link: int, now: float) -> None:
        self.quic = quic
        self.addr = addr
        self.dialled = dialled
        self.link = link
        self.expected: NodeId | None = None
        self.shown: x509.Certificate | None = None  # ours
        self.identity: PeerIdentity | None = None
        self.judged = False
        self.bulk = False  # it carries large bodies
        self.said_open = False
        self.dead = False  # the hub is not to hear of it any more
        self.began = now
        self.pinged = now
        self.probed = 0.0
        self.suspect = 0.0  # when the network said that nobody listens there
        self.due: float | None = None
        self.until: float | None = now + (DIAL_S if dialled else HANDSHAKE_S)
        self.cids: set[bytes] = set()
        self.closing: list[bytes] = []
        self.repeats = 0


class Endpoint:
    """The connections of one process; implements hub.Links."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, udp: Udp, credentials: Credentials, local: Local, handlers: Handlers
    ) -> None:
        self.figures = EndpointFigures()
        self._loop = loop
        self.udp = udp
        self._credentials = credentials
        self._by_cid: dict[bytes, Conn] = {}
        self._by_link: dict[int, Conn] = {}
        self._conns: set[Conn] = set()
        self._tokens: dict[bytes, Conn] = {}
        self._handshaking = 0
        self._touched: set[Conn] = set()
        self._touched_bulk: dict[Conn, None] = {}  # in turn
        self._waiting_bulk: deque[tuple[Conn, bytes, tuple[str, int]]] = deque()
        self._turning = False
        self._serving = False  # what it leaves is seen at its end
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._resets_at = 0.0
        self._lines = LineRate()
        self._closed = False
        self.hub = Hub(local, self, handlers, now_us, random.random, os.urandom, self.soon)
        loop.add_reader(udp.fileno(), self._readable)

    # ---- the owner's side ----

    def soon(self) -> None:
        """Something was given to the hub: a turn is needed."""
        if not (self._turning or self._serving or self._closed):
            self._turning = True
            self._loop.call_soon(self._turn)

    def close(self) -> None:
        """At once: peers are told, nothing is waited for."""
        if self._closed:
            return
        self.hub.close()
        for conn in [*self._touched, *self._touched_bulk]:
            self._transmit(conn, time.monotonic())
        self._closed = True
        self._loop.remove_reader(self.udp.fileno())
        if self._timer is not None:
            self._timer.cancel()
        self.udp.close()

    def rejudge(self) -> int:
        """Trust or membership changed: end what would not be let in now; how many."""
        ended = 0
        for conn in [conn for conn in self._conns if conn.judged and not conn.dead and not self._credentials.insecure]:
            found = self._credentials.judge(conn.quic.peer_chain(), Expected(conn.expected))
            if isinstance(found, Refusal):
                ended += 1
                log.warning("peer cut off", peer=_shown(conn.addr), reason=found)
                self._end(conn, Why.CERTIFICATE_CHANGED, str(found))
                self.hub.on_closed(conn.link, None, str(found))
            else:
                conn.identity, conn.until = found, time.monotonic() + max(0.0, found.until_s - time.time())
        self.soon()
        return ended

    def succeed(self) -> int:
        """Our certificate was renewed, and peers have had the time to know it: replace what was opened with the one
        before, which peers will refuse, without losing an answer; how many."""
        current = self._credentials.own().certificate
        older = [conn for conn in self.connections() if conn.shown != current]
        for conn in older:
            self.hub.replace(conn.link)
        self.soon()
        return len(older)

    def connection(self, peer: NodeId, lane: Process) -> Conn | None:
        """The one in use with a lane."""
        link = self.hub.link_of(peer, lane)
        return None if link is None else self._by_link.get(link)

    def connections(self) -> list[Conn]:
        return [conn for conn in self._conns if conn.said_open and not conn.dead]

    # ---- hub.Links ----

    def dial(self, link: int, address: Address, expected: NodeId, bulk: bool) -> None:
        now = time.monotonic()
        addr = (address.host, address.port)
        own = self._credentials.own()
        config = configuration(True, own.certificate, list(own.chain), own.key)
        quic = LaneQuic(config, self._reset_token, demand_certificate=False)
        conn = Conn(quic, addr, True, link, now)
        conn.expected, conn.shown = expected or None, own.certificate
        if bulk:
            self._carries_bulk(conn)
        self._add(conn, quic.host_cid)
        quic.connect(addr, now)
        self._touch(conn)

    def write(self, link: int, kind: Kind, data: bytes) -> None:
        conn = self._by_link.get(link)
        if conn is not None and not conn.dead and not conn.quic.ended:
            conn.quic.send_stream_data(conn.quic.stream_of(kind), data)
            self._touch(conn)

    def backlog(self, link: int, kind: Kind) -> int:
        conn = self._by_link.get(link)
        return 0 if conn is None else conn.quic.backlog(kind)

    def end(self, link: int, why: Why, text: str) -> None:
        conn = self._by_link.get(link)
        if conn is not None:
            self._end(conn, why, text)

    # ---- turns ----

    def _readable(self) -> None:
        now = time.monotonic()
        for data, addr in self.udp.receive():
            conn = self._route(data, addr, now)
            if conn is None:
                continue
            if conn.closing:
                self._say_again(conn)
            elif conn.bulk:
                self._put_off(conn, data, addr)
            else:
                self._feed(conn, data, addr, now)
        for addr in self.udp.unreachable():
            self._unreachable(addr)
        self._serve(bulk=not self._turning, all_now=False)

    def _feed(self, conn: Conn, data: bytes, addr: tuple[str, int], now: float) -> None:
        try:
            conn.quic.receive_datagram(data, addr, now)
        except Exception as error:  # noqa: BLE001 - whatever a peer's bytes do to the library ends that peer only
            log.exception("a connection failed", peer=_shown(addr), error=error)
            conn.dead = True
            self._drop(conn)
            self._tell(conn, None, "the connection failed")
            return
        self._mark(conn)

    def _put_off(self, conn: Conn, data: bytes, addr: tuple[str, int]) -> None:
        if len(self._waiting_bulk) < BULK_WAITING_MAX:
            self._waiting_bulk.append((conn, data, addr))
        else:
            self.figures.bulk_dropped += 1

    def _turn(self) -> None:
        self._turning = False
        self._serve(bulk=True)

    def _serve(self, bulk: bool, all_now: bool = True) -> None:
        """Events, then the hub's writing, then datagrams; large bodies' after all others', and only in turns.

        all_now=False: connections without data are left to the next turn. Who has just been answered asks the next
        thing before it, and that and what is to be acknowledged are one transmission.
        """
        if self._closed:
            return
        self._serving = True
        now = time.monotonic()
        try:
            for conn in list(self._touched):
                self._events(conn, now)
            self._hub_turn()
            served = [conn for conn in self._touched if all_now or conn.quic.has_data]
            self._touched.difference_update(served)
            for conn in served:
                self._transmit(conn, now)
            if bulk and (self._touched_bulk or self._waiting_bulk):
                served += self._bulk_turn(now)
        finally:
            self._serving = False
        if self.hub.dirty or self._touched or self._touched_bulk or self._waiting_bulk:
            self.soon()
        if served or not self._turning:  # else the turn arms it
            self._arm(served, now)

    def _hub_turn(self) -> None:
        due = self.hub.next_deadline_us()
        if due is not None and due <= now_us():
            self.hub.tick()
        if self.hub.dirty:
            self.hub.flush()

    def _bulk_turn(self, now: float) -> list[Conn]:
        """A slice of what came and of what is to go, each about TURN_DATAGRAMS; whose connections it was."""
        for _ in range(min(TURN_DATAGRAMS, len(self._waiting_bulk))):
            conn, data, addr = self._waiting_bulk.popleft()
            if conn in self._conns and not conn.closing:
                self._feed(conn, data, addr, now)
        for conn in list(self._touched_bulk):
            self._events(conn, now)
        if self.hub.dirty:
            self.hub.flush()
        served: list[Conn] = []
        sent = 0
        for conn in list(self._touched_bulk):
            if sent >= TURN_DATAGRAMS:
                break
            del self._touched_bulk[conn]
            sent += self._transmit(conn, now)
            served.append(conn)
        return served

    def _mark(self, conn: Conn) -> None:
        """It has something for a turn."""
        if conn.bulk:
            self._touched_bulk[conn] = None
        else:
            self._touched.add(conn)

    def _touch(self, conn: Conn) -> None:
        self._mark(conn)
        self.soon()

    def _transmit(self, conn: Conn, now: float) -> int:
        """What a turn may send, in as few calls as its sizes allow; the rest in the next one. How many datagrams."""
        quic = conn.quic
        if quic.ended:
            return 0
        datagrams = quic.datagrams_to_send(now)
        probe = quic.probe(now)
        self._send(conn, datagrams)
        for data, addr in probe:
            if self.udp.send(addr, data, len(data)):
                quic.probe_refused(len(data), now)
                self._touch(conn)
        if quic.ended:
            conn.closing = [data for data, _ in datagrams]
            conn.until = now + CLOSED_S
        elif quic.more_to_send:
            self._touch(conn)
        return len(datagrams)

    def _send(self, conn: Conn, datagrams: list[tuple[bytes, Any]]) -> None:
        """Runs of one size to one address, the last of a run may be shorter."""
        first = 0
        while first < len(datagrams):
            head, addr = datagrams[first]
            size, last = len(head), first + 1
            while last < len(datagrams) and len(datagrams[last - 1][0]) == size and datagrams[last][1] == addr:
                if len(datagrams[last][0]) > size:
                    break
                last += 1
            run = head if last == first + 1 else b"".join([data for data, _ in datagrams[first:last]])
            self.udp.send(addr, run, size)
            first = last

    def _arm(self, touched: list[Conn], now: float) -> None:
        """One timer for everything; armed anew only for an earlier time."""
        at = self._timer_at if self._timer_at > now else float("inf")
        for conn in touched:
            conn.due = self._due(conn)
            if conn.due is not None:
                at = min(at, conn.due)
        due_us = self.hub.next_deadline_us()
        if due_us is not None:
            at = min(at, now + max(0, due_us - now_us()) / 1e6)
        if at < self._timer_at or self._timer is None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = at
            self._timer = self._loop.call_at(at, self._on_timer) if at != float("inf") else None

    def _due(self, conn: Conn) -> float | None:
        times = [at for at in (conn.quic.get_timer(), conn.until) if at is not None]
        if conn.said_open and not conn.dead and not conn.quic.ended:
            times.append(conn.pinged + KEEPALIVE_S)
            if conn.suspect > conn.quic.heard_s:
                times.append(max(conn.suspect, conn.probed) + SUSPECT_S)
        return min(times, default=None)

    def _on_timer(self) -> None:
        now = time.monotonic()
        self._timer, self._timer_at = None, float("inf")
        for conn in list(self._conns):
            if conn.due is not None and conn.due <= now:
                self._time_of(conn, now)
                self._mark(conn)
        self._serve(bulk=not self._turning)
        for conn in self._conns:
            if conn.due is not None and conn.due < self._timer_at:
                self._arm([conn], now)

    def _time_of(self, conn: Conn, now: float) -> None:
        if conn.until is not None and now >= conn.until:
            self._too_late(conn)
        at = conn.quic.get_timer()
        if at is not None and at <= now:
            conn.quic.handle_timer(now)
        if conn.suspect > conn.quic.heard_s and now >= max(conn.suspect, conn.probed) + SUSPECT_S:
            conn.probed = now
            if not conn.quic.ended:
                conn.quic.send_ping(0)
        if conn.said_open and now >= conn.pinged + KEEPALIVE_S and not conn.quic.ended:
            if now - conn.quic.heard_s >= KEEPALIVE_S:
                conn.quic.send_ping(0)
            conn.pinged = max(conn.quic.heard_s, now - KEEPALIVE_S / 2)

    # ---- events ----

    def _events(self, conn: Conn, now: float) -> None:
        quic = conn.quic
        acked = False
        while (event := quic.next_event()) is not None:
            match event:
                case events.StreamDataReceived():
                    self._on_stream(conn, event)
                case events.HandshakeCompleted():
                    self._on_handshake(conn, now)
                case events.ConnectionIdIssued():
                    self._name(conn, event.connection_id)
                case events.ConnectionIdRetired():
                    self._by_cid.pop(event.connection_id, None)
                    conn.cids.discard(event.connection_id)
                case events.ConnectionTerminated():
                    self._on_end(conn, event)
                case events.StreamReset() | events.StopSendingReceived():
                    self._refuse(conn, Why.FLOOD, "lanes' streams are not reset")
                case _:
                    acked = True
        if conn.said_open and not conn.dead and (acked or quic.acked_since()):
            self.hub.on_acked(conn.link)

    def _on_stream(self, conn: Conn, event: events.StreamDataReceived) -> None:
        if conn.dead:
            return
        if not conn.said_open:
            self._refuse(conn, Why.GARBLED, "bytes before the handshake was complete")
            return
        kind = conn.quic.kind_of(event.stream_id)
        if kind is None or event.end_stream:
            self._refuse(conn, Why.FLOOD, "a stream of no class, or one that ends")
            return
        if kind is Kind.BULK and not conn.bulk:
            self._carries_bulk(conn)
        self.hub.on_data(conn.link, kind, event.data)

    def _carries_bulk(self, conn: Conn) -> None:
        """From now on it is served after the others."""
        conn.bulk = True
        conn.quic.carry_bulk()
        if conn in self._touched:
            self._touched.discard(conn)
            self._touched_bulk[conn] = None

    def _on_handshake(self, conn: Conn, now: float) -> None:
        """Judge the peer; only then does the hub know of the connection."""
        self._handshaking -= not conn.dialled
        self.figures.handshakes += 1
        conn.judged = True
        found = self._judge(conn)
        if isinstance(found, Refusal):
            self.figures.handshakes_refused += 1
            unsaid = self._lines.take(REFUSED_LINE, now_us())
            if unsaid is not None:
                log.warning("peer refused", peer=_shown(conn.addr), reason=found, others_not_logged=unsaid)
            self._refuse(conn, WHY_OF_REASON.get(found.reason, Why.IDENTITY), str(found))
            return
        conn.identity = found
        conn.until = None if found is None else now + max(0.0, found.until_s - time.time())
        conn.said_open = True
        conn.quic.open_streams()
        conn.pinged = now
        token = conn.quic.peer_reset_token
        if conn.dialled and len(token) == 16:
            self._tokens[token] = conn
        mtu = self.udp.route_mtu(conn.addr)
        conn.quic.begin_probing(min(DATAGRAM_MAX, mtu - UDP_HEADERS[":" in conn.addr[0]]), now)
        self.hub.on_open(conn.link, None if found is None else found.node_id)

    def _judge(self, conn: Conn) -> PeerIdentity | Refusal | None:
        if conn.quic.resumed():
            return Refusal(Reason.NO_CERTIFICATE, "a resumed session shows no certificate")
        if self._credentials.insecure:
            return None
        return self._credentials.judge(conn.quic.peer_chain(), Expected(conn.expected))

    def _on_end(self, conn: Conn, event: events.ConnectionTerminated) -> None:
        self._drop(conn)
        if conn.dead:
            return
        conn.dead = True
        why = _why(event)
        text = event.reason_phrase or f"QUIC error {event.error_code:#x}"
        text = "nothing was heard" if text == "Idle timeout" else text
        self._tell(conn, why, text[:200])

    def _tell(self, conn: Conn, why: Why | None, text: str) -> None:
        """The hub hears of the end of what it knows: what it dialled, or what was opened."""
        if conn.dialled or conn.said_open:
            self.hub.on_closed(conn.link, why, text)

    # ---- ends ----

    def _end(self, conn: Conn, why: Why, text: str) -> None:
        """Our own close; the hub hears nothing any more."""
        conn.dead = True
        if conn.quic.can_close():
            conn.quic.close(error_code=why.value, reason_phrase=text[:200])
            self._touch(conn)
        else:
            self._drop(conn)

    def _refuse(self, conn: Conn, why: Why, text: str) -> None:
        """The endpoint's own refusal."""
        if conn.dead:
            return
        self._end(conn, why, text)
        self._tell(conn, None, text)

    def _too_late(self, conn: Conn) -> None:
        conn.until = None
        if conn.dead:
            self._drop(conn)
        elif conn.said_open:
            self._refuse(conn, Why.CERTIFICATE_CHANGED, "the certificate has ended")
        else:
            self.figures.handshakes_late += 1
            self._refuse(conn, Why.GARBLED, "no handshake in time")

    def _unreachable(self, addr: tuple[str, int]) -> None:
        """Nobody listens there: a dial is over at once; a session is asked whether it lives, and is lost when it has
        not answered by the next such word. Anybody near the path can say so, but not keep the peer from answering."""
        now = time.monotonic()
        for conn in [conn for conn in self._conns if conn.addr == addr and not conn.dead]:
            if not conn.said_open:
                conn.dead = True
                self._drop(conn)
                self._tell(conn, None, "nobody listens there")
            elif conn.suspect > conn.quic.heard_s and now - conn.suspect >= SUSPECT_S:
                conn.dead = True
                self._drop(conn)
                self._tell(conn, None, "nobody listens there any more")
            elif not conn.quic.ended and conn.suspect <= conn.quic.heard_s:
                conn.suspect = now
                conn.quic.send_ping(0)
                self._mark(conn)

    def _drop(self, conn: Conn) -> None:
        """Forget it."""
        if conn not in self._conns:
            return
        self._conns.discard(conn)
        self._touched.discard(conn)
        self._touched_bulk.pop(conn, None)
        for cid in conn.cids:
            self._by_cid.pop(cid, None)
        self._by_link.pop(conn.link, None)
        for token in [token for token, one in self._tokens.items() if one is conn]:
            del self._tokens[token]
        self.figures.holes += conn.quic.holes
        self.figures.lost_packets += conn.quic.lost_packets
        if not conn.dialled and not conn.judged:
            self._handshaking -= 1

    def _say_again(self, conn: Conn) -> None:
        if conn.repeats < CLOSE_REPEATS:
            conn.repeats += 1
            for data in conn.closing:
                self.udp.send(conn.addr, data, len(data))

    # ---- who a datagram is for ----

    def _route(self, data: bytes, addr: tuple[str, int], now: float) -> Conn | None:
        if len(data) < 1 + CID_BYTES:
            return None
        if not data[0] & 0x80:
            conn = self._by_cid.get(data[1 : 1 + CID_BYTES])
            if conn is None:
                self._stranger(data, addr, now)
            return conn
        length = data[5]
        conn = self._by_cid.get(data[6 : 6 + length])
        return conn if conn is not None else self._accept(data, addr, now)

    def _accept(self, data: bytes, addr: tuple[str, int], now: float) -> Conn | None:
        """A first datagram of a new connection."""
        self.figures.strangers += 1
        if len(data) < DATAGRAM_MIN or self._handshaking >= HANDSHAKES_MAX or self._closed:
            return None
        own = self._credentials.own()
        config = configuration(False, own.certificate, list(own.chain), own.key)
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=CID_BYTES)
        except ValueError:
            return None
        if header.version not in config.supported_versions:
            if header.packet_type != QuicPacketType.VERSION_NEGOTIATION:
                answer = encode_quic_version_negotiation(
                    source_cid=header.destination_cid,
                    destination_cid=header.source_cid,
                    supported_versions=config.supported_versions,
                )
                self.udp.send(addr, answer, len(answer))
            return None
        if header.packet_type != QuicPacketType.INITIAL:
            return None
        quic = LaneQuic(config, self._reset_token, not self._credentials.insecure, header.destination_cid)
        conn = Conn(quic, addr, False, self.hub.new_link(), now)
        conn.shown = own.certificate
        self._handshaking += 1
        self._add(conn, header.destination_cid)
        self._name(conn, quic.host_cid)
        return conn

    def _stranger(self, data: bytes, addr: tuple[str, int], now: float) -> None:
        """A packet of a connection that we do not have: a reset for us, or one that deserves a reset."""
        self.figures.strangers += 1
        conn = self._tokens.get(data[-16:])
        if conn is not None and conn.addr == addr and not conn.dead:
            self.figures.resets_in += 1
            conn.dead = True
            self._drop(conn)
            self._tell(conn, None, "the peer has started anew")
            self.soon()
            return
        if len(data) < 43 or now < self._resets_at:
            return
        self._resets_at = max(self._resets_at, now - 0.1) + 1 / RESETS_PER_S
        self.figures.resets_out += 1
        first = (os.urandom(1)[0] & 0x3F) | 0x40
        answer = bytes([first]) + os.urandom(24) + self._reset_token(data[1 : 1 + CID_BYTES])
        self.udp.send(addr, answer, len(answer))

    def _reset_token(self, cid: bytes) -> bytes:
        return hmac.digest(self._credentials.reset_key(), cid, hashlib.sha256)[:16]

    def _add(self, conn: Conn, cid: bytes) -> None:
        self._conns.add(conn)
        self._by_link[conn.link] = conn
        self._name(conn, cid)

    def _name(self, conn: Conn, cid: bytes) -> None:
        conn.cids.add(cid)
        self._by_cid[cid] = conn


def now_us() -> int:
    """The clock of the hub."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def _why(event: events.ConnectionTerminated) -> Why | None:
    """An application's close by its code; None for QUIC's own ends."""
    if event.frame_type is not None or event.error_code not in Why._value2member_map_:
        return None
    return Why(event.error_code)


def _shown(addr: tuple[str, int]) -> str:
    return f"{addr[0]}:{addr[1]}"
