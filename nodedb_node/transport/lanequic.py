"""aioquic's connection as lanes need it: the one file that relies on what aioquic does not promise.

Pinned to VERSION; `missing()` lists what a different one lacks, and a test fails when it is not empty. What is changed:
the server demands a certificate; acknowledgements wait longer and ride on data; no pacing and a large window while the
path is as short as a LAN's; datagrams as large as the path proves to carry, probed upwards and given up when they begin
to vanish; stateless resets by a token that survives a restart; four one-way streams and nothing else.

Invariant: sans-IO: now and datagrams come in, datagrams and events go out. No session tickets, no 0-RTT, ever.
"""

from __future__ import annotations

import ssl
import struct
from collections.abc import Callable, Iterable
from typing import Any

import aioquic
from aioquic._buffer import Buffer
from aioquic._crypto import CryptoError
from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE, QuicConfiguration
from aioquic.quic.congestion.base import QuicCongestionControl, register_congestion_control
from aioquic.quic.connection import (
    END_STATES,
    Limit,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.events import StreamDataReceived
from aioquic.quic.packet import (
    QuicFrameType,
    QuicPacketType,
    QuicProtocolVersion,
    decode_packet_number,
    push_ack_frame,
)
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder, QuicSentPacket
from aioquic.quic.recovery import MAX_ACK_RANGES, QuicPacketPacer
from aioquic.tls import Epoch
from cryptography.hazmat.primitives.serialization import Encoding

from nodedb_node.config import KIB, MIB
from nodedb_node.rpc.frame import Kind
from nodedb_node.rpc.hello import ALPN

VERSION = "1.7.2"
CID_BYTES = 8
STREAMS = len(Kind)  # one-way, in each direction; the class is the stream's number in order
ACK_DELAY_S = 0.008
ACK_RIDES_AFTER_S = 0.003  # on data that goes then; on each packet it would cost both sides more than it tells
PEER_ACK_DELAY_S = 0.012  # what we allow for it in probe timeouts: the peer runs this file too
ACK_EVERY = 16  # datagrams, whatever the delay says
IDLE_S = 1.3  # without an authentic datagram: the peer is dead
KEEPALIVE_S = 0.3
INITIAL_RTT_S = 0.05
STREAM_WINDOW = 64 * MIB
CONNECTION_WINDOW = 128 * MIB

LAN_RTT_S = 0.005
WINDOW_FIRST = 256 * KIB
WINDOW_MAX = 4 * MIB
WINDOW_BULK = 768 * KIB  # what lies in the peer's socket buffer delays its heartbeats: a few ms of it are enough
WINDOW_LAN_MIN = 128 * KIB
TURN_DATAGRAMS = 14  # of one connection per turn, half a millisecond's work: all others get theirs in between

ENDED = tuple(END_STATES)  # asked per packet: what an Enum's hash costs, a tuple does not
TAG_BYTES = 16  # of every cipher there is
STREAM_HEAD = struct.Struct(">BBQH")  # type, stream (below 64), offset in 8 bytes, length in 2
STREAM_HEAD_FIRST = struct.Struct(">BBH")
OFFSET_MARK = 3 << 62

DATAGRAM_MIN = SMALLEST_MAX_DATAGRAM_SIZE
# What is tried, the largest that the way out could carry first. UDP payloads: jumbo, Ethernet, Ethernet with a tunnel.
DATAGRAM_SIZES = (8900, 4000, 1452, 1372)
DATAGRAM_MAX = max(DATAGRAM_SIZES)
PROBES_PER_SIZE = 3
PROBE_AGAIN_S = 30.0
PROBE_AFTER_HOLE_S = 5.0
HOLE_EVENTS = 3  # losses of large datagrams, one after the other, without one that arrived


class LaneCongestion(QuicCongestionControl):
    """Reno for far peers; for near ones a large window that yields to loss but never collapses.

    Losses of datagrams above `mtu` are probes': they say nothing about congestion. Large ones that vanish while nothing
    large arrives mean that the path became narrower; `hole` tells.
    """

    def __init__(self, *, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self.mtu = max_datagram_size
        self.window = WINDOW_FIRST
        self.window_max = WINDOW_MAX
        self.near = True
        self.turn_bytes = TURN_DATAGRAMS * max_datagram_size
        self.hole_events = 0
        self.lost_packets = 0
        self.acked_packets = 0
        self._hole_time = 0.0
        self._recovery_time = 0.0

    @property
    def congestion_window(self) -> int:
        return min(self.window, self.bytes_in_flight + self.turn_bytes)

    @congestion_window.setter
    def congestion_window(self, _: int) -> None:
        """The base class sets its own first value."""

    @property
    def floor(self) -> int:
        return WINDOW_LAN_MIN if self.near else 2 * self.mtu

    def on_packet_sent(self, *, packet: QuicSentPacket) -> None:
        self.bytes_in_flight += packet.sent_bytes
        self.turn_bytes -= packet.sent_bytes

    def on_packet_acked(self, *, now: float, packet: QuicSentPacket) -> None:
        self.bytes_in_flight -= packet.sent_bytes
        self.acked_packets += 1
        if packet.sent_bytes > DATAGRAM_MIN:
            self.hole_events = 0
        if packet.sent_time is None or packet.sent_time <= self._recovery_time:
            return
        if self.ssthresh is None or self.window < self.ssthresh or self.near:
            self.window = min(self.window_max, self.window + packet.sent_bytes)
        else:
            self.window = min(self.window_max, self.window + self.mtu * packet.sent_bytes // self.window)

    def on_packets_expired(self, *, packets: Iterable[QuicSentPacket]) -> None:
        """Sent again early, or not needed any more: no sign of congestion, but each early one may be a hole's."""
        large = False
        for packet in packets:
            self.bytes_in_flight -= packet.sent_bytes
            large = large or DATAGRAM_MIN < packet.sent_bytes <= self.mtu
        self.hole_events += large

    def on_packets_lost(self, *, now: float, packets: Iterable[QuicSentPacket]) -> None:
        latest = 0.0
        for packet in packets:
            self.bytes_in_flight -= packet.sent_bytes
            self.lost_packets += 1
            if packet.sent_bytes <= self.mtu:
                latest = max(latest, packet.sent_time or 0.0)
                self._large_lost(packet)
        if latest > self._recovery_time:
            self._recovery_time = now
            self.window = max(self.floor, self.window * 7 // 10 if self.near else self.window // 2)
            self.ssthresh = self.window

    def on_persistent_congestion(self) -> None:
        self.window = self.floor
        self._recovery_time = 0.0

    def on_rtt_measurement(self, *, now: float, rtt: float) -> None:
        """Window growth is bounded by WINDOW_MAX; slow start needs no other end."""

    def _large_lost(self, packet: QuicSentPacket) -> None:
        """One event per flight: what was sent before the last event belongs to it."""
        sent = packet.sent_time or 0.0
        if DATAGRAM_MIN < packet.sent_bytes <= self.mtu and sent > self._hole_time:
            self._hole_time = sent
            self.hole_events += 1


class LanePacer(QuicPacketPacer):
    """Paces far peers only. Near is judged by the smallest round trip: delays of acknowledgements say nothing."""

    near: bool = True

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        if self.near:
            self.packet_time = None
        else:
            # What a turn may send is nothing at its end when nothing is in flight: no rate at all is none to pace by.
            super().update_rate(max(congestion_window, 2 * DATAGRAM_MIN), smoothed_rtt)


register_congestion_control("lane", LaneCongestion)


def configuration(is_client: bool, certificate: Any, chain: list[Any], key: Any) -> QuicConfiguration:
    """For one connection. Certificates are judged by credentials.verify, so aioquic's own judgement is off."""
    return QuicConfiguration(
        alpn_protocols=[ALPN],
        congestion_control_algorithm="lane",
        connection_id_length=CID_BYTES,
        idle_timeout=IDLE_S,
        is_client=is_client,
        max_data=CONNECTION_WINDOW,
        max_stream_data=STREAM_WINDOW,
        max_datagram_size=DATAGRAM_MIN,
        certificate=certificate,
        certificate_chain=chain,
        private_key=key,
        initial_rtt=INITIAL_RTT_S,
        supported_versions=[QuicProtocolVersion.VERSION_1],
        verify_mode=ssl.CERT_NONE,
    )


class LaneQuic(QuicConnection):
    """One connection. reset_token: from a connection id, the same in every start of this node."""

    def __init__(
        self,
        configuration: QuicConfiguration,
        reset_token: Callable[[bytes], bytes],
        demand_certificate: bool,
        original_destination: bytes | None = None,
    ) -> None:
        super().__init__(configuration=configuration, original_destination_connection_id=original_destination)
        self._reset_token = reset_token
        self._demand_certificate = demand_certificate
        self._ack_delay = ACK_DELAY_S
        self._local_max_streams_bidi = Limit(QuicFrameType.MAX_STREAMS_BIDI, "max_streams_bidi", 0)
        self._local_max_streams_uni = Limit(QuicFrameType.MAX_STREAMS_UNI, "max_streams_uni", STREAMS)
        self._pacer = self._loss._pacer = LanePacer(max_datagram_size=DATAGRAM_MIN)
        assert isinstance(self._loss._cc, LaneCongestion)
        self._cc = self._loss._cc
        if not self._is_client:
            self._host_cids[0].stateless_reset_token = reset_token(self.host_cid)
        self._first_stream = 2 if self._is_client else 3
        self._peers_first = 3 if self._is_client else 2
        self._unacked = 0
        self._acked_seen = 0
        self._now = 0.0
        self._probing: int | None = None
        self._probes = 0
        self._probe_at: float | None = None
        self._sizes: tuple[int, ...] = ()
        self.holes = 0

    # ---- what the endpoint asks ----

    @property
    def ended(self) -> bool:
        """Closing, or closed: nothing is sent any more."""
        return self._state in ENDED

    @property
    def datagram_size(self) -> int:
        """Bytes of the largest datagram in use."""
        return self._max_datagram_size

    @property
    def rtt_s(self) -> float:
        """Smoothed, 0 = not measured."""
        return self._loss._rtt_smoothed if self._loss._rtt_initialized else 0.0

    @property
    def lost_packets(self) -> int:
        return self._cc.lost_packets

    @property
    def peer_reset_token(self) -> bytes:
        """What the peer's next start will send when it does not know this connection; empty = it gave none."""
        return self._peer_cid.stateless_reset_token or b""

    def peer_chain(self) -> list[bytes]:
        """The peer's certificates, leaf first, DER; the leaf's key signed this handshake."""
        if self.tls._peer_certificate is None:
            return []
        chain = [self.tls._peer_certificate, *self.tls._peer_certificate_chain]
        return [certificate.public_bytes(Encoding.DER) for certificate in chain]

    def resumed(self) -> bool:
        """Whether the handshake took a session ticket: never, and looked at all the same."""
        return bool(self.tls.session_resumed)

    def carry_bulk(self) -> None:
        """This side sends large bodies, which must not stand in anybody's way."""
        self._cc.window_max = WINDOW_BULK

    def open_streams(self) -> None:
        """In their order: aioquic takes a stream below one that was opened for one that has ended."""
        for kind in Kind:
            self.send_stream_data(self.stream_of(kind), b"")

    def stream_of(self, kind: Kind) -> int:
        return self._first_stream + 4 * kind

    def kind_of(self, stream: int) -> Kind | None:
        """The class of a peer's stream; None for one that has no class."""
        if stream % 4 != self._peers_first or stream // 4 >= STREAMS:
            return None
        return Kind(stream // 4)

    def backlog(self, kind: Kind) -> int:
        """Bytes written and not acknowledged."""
        stream = self._streams.get(self.stream_of(kind))
        return 0 if stream is None else len(stream.sender._buffer)

    @property
    def has_data(self) -> bool:
        """Stream data waits to be sent."""
        return any(not one.sender.buffer_is_empty for one in self._streams_queue)

    @property
    def more_to_send(self) -> bool:
        """The turn's share was used up while there was more."""
        return self._cc.turn_bytes <= 0 and self.has_data

    @property
    def heard_s(self) -> float:
        """When the last datagram came."""
        return self._now

    def acked_since(self) -> bool:
        """Whether something of ours was acknowledged since the last call."""
        acked = self._cc.acked_packets
        before, self._acked_seen = self._acked_seen, acked
        return acked != before

    def can_close(self) -> bool:
        """Whether a close can be said: there are keys, and it was not said before."""
        return not self.ended and self._version is not None

    # ---- changed ----

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self._space, self._crypto = self._spaces[Epoch.ONE_RTT], self._cryptos[Epoch.ONE_RTT]
        if not self._is_client:
            self.tls._request_client_certificate = self._demand_certificate

    def _replenish_connection_ids(self) -> None:
        super()._replenish_connection_ids()
        for one in self._host_cids:
            if not one.was_sent:
                one.stateless_reset_token = self._reset_token(one.cid)

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        self._now = now
        if not self._receive_short(data, addr, now):
            super().receive_datagram(data, addr, now)
        self._unacked += 1

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        """As aioquic's, with the acknowledgement that is due soon riding on data that goes now, and probes."""
        cc = self._cc
        cc.turn_bytes = TURN_DATAGRAMS * self._max_datagram_size
        cc.near = self._pacer.near = self._loss._rtt_min < LAN_RTT_S or not self._loss._rtt_initialized
        if self._handshake_confirmed and not self.ended:
            self._loss.max_ack_delay = PEER_ACK_DELAY_S
            space = self._space
            if space.ack_at is not None:
                rides = space.ack_at - now < ACK_DELAY_S - ACK_RIDES_AFTER_S and self.has_data
                if rides or self._unacked >= ACK_EVERY:
                    space.ack_at = now
            if cc.hole_events >= HOLE_EVENTS and self._max_datagram_size > DATAGRAM_MIN:
                self._hole(now)
        datagrams = self._send_short(now) if self._plain_sailing() else super().datagrams_to_send(now)
        if datagrams and self._handshake_confirmed and self._space.ack_at is None:
            self._unacked = 0
        return datagrams

    def get_timer(self) -> float | None:
        timer = super().get_timer()
        if self._probe_at is not None and not self.ended and (timer is None or self._probe_at < timer):
            return self._probe_at
        return timer

    # ---- the common case, without what it does not need ----

    def _receive_short(self, data: bytes, addr: Any, now: float) -> bool:
        """A datagram of an established session from where its datagrams come from: what super() does for it, without
        looking for everything else it might be. False: it is something else, nothing was done."""
        cid = self.host_cid
        end = 1 + len(cid)
        if not self._handshake_confirmed or data[0] & 0xC0 != 0x40 or data[1:end] != cid or len(data) < end + 20:
            return False
        path, space = self._network_paths[0], self._space
        crypto: Any = self._crypto.recv
        if self._state is not QuicConnectionState.CONNECTED or self._close_pending or path.addr != addr:
            return False
        mask = crypto.hp._mask(data[end + 4 : end + 20])
        first = data[0] ^ (mask[0] & 0x1F)
        if (first >> 2) & 1 != crypto.key_phase or first & 0x1B != 1:  # reserved bits, or another length of the number
            return False
        number = bytes((data[end] ^ mask[1], data[end + 1] ^ mask[2]))
        packet_number = decode_packet_number(int.from_bytes(number, "big"), 16, space.expected_packet_number)
        try:
            header = b"".join((bytes((first,)), cid, number))
            payload = crypto.aead.decrypt(data[end + 2 :], header, packet_number)
        except CryptoError:
            return False
        if packet_number not in space.received_packets:
            self._received_short(first, packet_number, payload, path, space, now)
        return True

    def _received_short(self, first: int, number: int, payload: bytes, path: Any, space: Any, now: float) -> None:
        if number > space.expected_packet_number:
            space.expected_packet_number = number + 1
        if number > self._spin_highest_pn:
            self._spin_bit = bool(first & 0x20) != self._is_client
            self._spin_highest_pn = number
        is_ack_eliciting = True
        if not self._plain_frame(payload):
            context = QuicReceiveContext(Epoch.ONE_RTT, self.host_cid, path, None, now, None)
            try:
                is_ack_eliciting, _ = self._payload_received(context, payload)
            except QuicConnectionError as error:
                self.close(error_code=error.error_code, frame_type=error.frame_type, reason_phrase=error.reason_phrase)
        if self._state in ENDED or self._close_pending:
            return
        self._close_at = now + self._idle_timeout()
        self._ack_eliciting_sent_since_receipt = False
        if number > space.largest_received_packet:
            space.largest_received_packet = number
            space.largest_received_time = now
        space.ack_queue.add(number)
        space.received_packets.add(number)
        if len(space.ack_queue) > MAX_ACK_RANGES:
            space.ack_queue.shift()
        if is_ack_eliciting and space.ack_at is None:
            space.ack_at = now + self._ack_delay

    def _plain_frame(self, payload: bytes) -> bool:
        """A packet that is one piece of a stream, the next one, as _short_streams writes it: what super() does for it.
        False: it is something else, or breaks a limit; nothing was done."""
        if len(payload) <= STREAM_HEAD.size or payload[0] != 0x0E:
            return False
        _, stream_id, offset, length = STREAM_HEAD.unpack_from(payload)
        offset, length, stream = offset - OFFSET_MARK, length - 0x4000, self._streams.get(stream_id)
        if stream is None or stream_id % 4 != self._peers_first:
            return False
        if length != len(payload) - STREAM_HEAD.size or length >= 0x4000:
            return False
        receiver, limit = stream.receiver, self._local_max_data
        if offset != receiver._buffer_start or receiver._buffer:
            return False
        if receiver.is_finished or receiver._final_size is not None:
            return False
        end = offset + length
        new = max(0, end - receiver.highest_offset)
        if end > stream.max_stream_data_local or limit.used + new > limit.value:
            return False
        limit.used += new
        receiver.highest_offset += new
        receiver._buffer_start = end
        self._events.append(StreamDataReceived(payload[STREAM_HEAD.size :], False, stream_id))
        return True

    def _plain_sailing(self) -> bool:
        """Nothing is to be sent but stream data and acknowledgements, without pacing, on one validated path."""
        data, paths = self._local_max_data, self._network_paths
        if not (
            self._handshake_confirmed
            and self._state is QuicConnectionState.CONNECTED
            and self._pacer.near
            and len(paths) == 1
            and paths[0].is_validated
            and not paths[0].remote_challenges
            and not self._close_pending
            and not self._probe_pending
            and not self._ping_pending
            and not self._handshake_done_pending
            and not self._retire_connection_ids
            and data.used * 2 <= data.value == data.sent
            and self._crypto_streams[Epoch.ONE_RTT].sender.buffer_is_empty
            and not self._crypto._update_key_requested
        ):
            return False
        for stream in self._streams_queue:  # no MAX_STREAM_DATA is to be sent, no reset, no stop
            limit, receiver, sender = stream.max_stream_data_local, stream.receiver, stream.sender
            if limit and not receiver.highest_offset * 2 <= limit == stream.max_stream_data_local_sent:
                return False
            if sender.reset_pending or receiver.stop_pending or (receiver.is_finished and sender.is_finished):
                return False
        return all(one.was_sent for one in self._host_cids)

    def _send_short(self, now: float) -> list[tuple[bytes, Any]]:
        """Packets of stream data, the classes in their order; an acknowledgement that is due rides on the first."""
        self._pacing_at = None
        space, path = self._space, self._network_paths[0]
        streams = [stream for stream in self._streams_queue if not stream.sender.buffer_is_empty]
        streams.sort(key=_stream_id)
        datagrams: list[tuple[bytes, Any]] = []
        header = 3 + len(self._peer_cid.cid)
        while True:
            acknowledging = space.ack_at is not None and space.ack_at <= now
            if not streams and not acknowledging:
                return datagrams
            in_flight = self._cc.congestion_window - self._cc.bytes_in_flight
            frames: list[bytes] = []
            handlers: list[Any] = []
            room = self._max_datagram_size - header - TAG_BYTES
            if acknowledging:
                room -= self._short_ack(space, now, room, frames, handlers)
            room = min(room, in_flight - header - TAG_BYTES)
            has_data = self._short_streams(streams, room, frames, handlers)
            if not frames:
                return datagrams
            probing = len(frames) > 0 and not has_data and b"\x01" in frames
            datagrams.append((self._short_packet(frames, handlers, has_data, probing, space, now), path.addr))
            path.bytes_sent += len(datagrams[-1][0])
            if not has_data:
                return datagrams
            streams = [stream for stream in streams if not stream.sender.buffer_is_empty]

    def _short_ack(self, space: Any, now: float, room: int, frames: list[bytes], handlers: list[Any]) -> int:
        delay = int((now - space.largest_received_time) * 1000000) >> self._local_ack_delay_exponent
        buffer = Buffer(capacity=room)
        buffer.push_uint_var(QuicFrameType.ACK)
        ranges = push_ack_frame(buffer, space.ack_queue, delay, room - 1)
        frames.append(buffer.data)
        handlers.append((self._on_ack_delivery, (space, space.largest_received_packet)))
        space.ack_at = None
        if ranges > 1 and self._packet_number % 8 == 0:
            frames.append(b"\x01")  # a ping, so that this acknowledgement is acknowledged and old ranges can go
            handlers.append((self._on_ping_delivery, ((),)))
            return buffer.tell() + 1
        return buffer.tell()

    def _short_streams(self, streams: list[Any], room: int, frames: list[bytes], handlers: list[Any]) -> bool:
        has_data = False
        for stream in streams:
            sender = stream.sender
            offset = sender.next_offset
            size = 12 if offset else 4
            if room <= size:
                break
            before = sender.highest_offset
            limit = min(before + self._remote_max_data - self._remote_max_data_used, stream.max_stream_data_remote)
            frame = sender.get_frame(room - size, limit)
            if frame is None:
                continue
            if len(sender._pending) == 0:
                sender.buffer_is_empty = True  # no second look in the next packet
            length, offset = len(frame.data), frame.offset
            head = (
                STREAM_HEAD.pack(0x0E, stream.stream_id, offset | OFFSET_MARK, length | 0x4000)
                if offset
                else (STREAM_HEAD_FIRST.pack(0x0A, stream.stream_id, length | 0x4000))
            )
            frames += (head, frame.data)
            handlers.append((sender.on_data_delivery, (offset, offset + length, False)))
            self._remote_max_data_used += sender.highest_offset - before
            room -= length + len(head)
            has_data = True
        return has_data

    def _short_packet(
        self, frames: list[bytes], handlers: list[Any], has_data: bool, probing: bool, space: Any, now: float
    ) -> bytes:
        """Encrypt, and register as sent."""
        number = self._packet_number
        crypto: Any = self._crypto.send
        first = 0x41 | (self._spin_bit << 5) | (crypto.key_phase << 2)
        cid = self._peer_cid.cid
        header = b"".join((bytes((first,)), cid, (number & 0xFFFF).to_bytes(2, "big")))
        body = crypto.aead.encrypt(b"".join(frames), header, number)
        mask = crypto.hp._mask(body[2:18])
        hidden = bytes((header[-2] ^ mask[1], header[-1] ^ mask[2]))
        datagram = b"".join((bytes((first ^ (mask[0] & 0x1F),)), cid, hidden, body))
        eliciting = has_data or probing
        packet = QuicSentPacket(
            epoch=Epoch.ONE_RTT,
            in_flight=eliciting,
            is_ack_eliciting=eliciting,
            is_crypto_packet=False,
            packet_number=number,
            packet_type=QuicPacketType.ONE_RTT,
            sent_time=now,
            sent_bytes=len(datagram),
            delivery_handlers=handlers,
        )
        self._packet_number = number + 1
        self._loss.on_packet_sent(packet=packet, space=space)
        if eliciting and not self._ack_eliciting_sent_since_receipt:
            self._close_at = now + self._idle_timeout()
            self._ack_eliciting_sent_since_receipt = True
        return datagram

    # ---- the size of datagrams ----

    def begin_probing(self, largest: int, now: float) -> None:
        """largest: what the way out could carry at most."""
        self._sizes = tuple(size for size in DATAGRAM_SIZES if size <= largest)
        self._probing, self._probes = 0, 0
        self._probe_at = now

    def probe(self, now: float) -> list[tuple[bytes, Any]]:
        """The probe that is due, as datagrams to send; empty when none is."""
        if self._probe_at is None or now < self._probe_at or not self._handshake_confirmed or self.ended:
            return []
        self._probe_at = None
        if self._probing is None:
            self._probing, self._probes = 0, 0
        if self._probing >= len(self._sizes) or self._sizes[self._probing] <= self._max_datagram_size:
            self._settled(now)
            return []
        return self._probe_datagram(self._sizes[self._probing], now)

    def probe_refused(self, size: int, now: float) -> None:
        """The kernel says that it is too large for the way out."""
        if self._probing is not None and self._probing < len(self._sizes) and self._sizes[self._probing] == size:
            self._probing, self._probes, self._probe_at = self._probing + 1, 0, now

    def _probe_datagram(self, size: int, now: float) -> list[tuple[bytes, Any]]:
        assert self._version is not None
        builder = QuicPacketBuilder(
            host_cid=self.host_cid,
            is_client=self._is_client,
            max_datagram_size=size,
            packet_number=self._packet_number,
            peer_cid=self._peer_cid.cid,
            peer_token=self._peer_token,
            spin_bit=self._spin_bit,
            version=self._version,
        )
        builder.start_packet(QuicPacketType.ONE_RTT, self._cryptos[Epoch.ONE_RTT])
        buffer = builder.start_frame(QuicFrameType.PING, handler=self._probe_delivery, handler_args=(size,))
        buffer.push_bytes(bytes(builder.remaining_buffer_space))
        return self._flush_builder(builder, self._network_paths[0], self._peer_cid.cid, now)

    def _probe_delivery(self, delivery: QuicDeliveryState, size: int) -> None:
        index = self._probing
        if index is None or index >= len(self._sizes) or self._sizes[index] != size:
            return
        if delivery is QuicDeliveryState.ACKED:
            self._use(size)
            self._settled(self._now)
        else:
            self._probes += 1
            if self._probes >= PROBES_PER_SIZE:
                self._probing, self._probes = index + 1, 0
            self._probe_at = 0.0

    def _settled(self, now: float) -> None:
        """Nothing larger comes through: try again later, the network may change."""
        self._probing = self._probe_at = None
        if self._sizes and self._max_datagram_size < self._sizes[0]:
            self._probe_at = now + PROBE_AGAIN_S

    def _hole(self, now: float) -> None:
        self.holes += 1
        self._cc.hole_events = 0
        self._use(DATAGRAM_MIN)
        self._probing = None
        self._probe_at = now + min(PROBE_AGAIN_S, PROBE_AFTER_HOLE_S * self.holes)

    def _use(self, size: int) -> None:
        self._max_datagram_size = size
        self._cc.mtu = size
        self._pacer._max_datagram_size = size


RELIED_ON = (
    *("_ack_delay", "_cryptos", "_flush_builder", "_handshake_confirmed", "_host_cids", "_initialize", "_is_client"),
    *("_local_max_streams_bidi", "_local_max_streams_uni", "_loss", "_max_datagram_size", "_network_paths"),
    *("_packet_number", "_peer_cid", "_peer_token", "_replenish_connection_ids", "_spaces", "_spin_bit", "_state"),
    *("_streams", "_version", "tls", "_ack_eliciting_sent_since_receipt", "_close_at", "_close_pending"),
    *("_crypto_streams", "_handshake_done_pending", "_idle_timeout", "_local_ack_delay_exponent", "_local_max_data"),
    *("_on_ack_delivery", "_on_ping_delivery", "_pacing_at", "_payload_received", "_ping_pending", "_probe_pending"),
    *("_remote_max_data", "_remote_max_data_used", "_retire_connection_ids", "_spin_highest_pn", "_streams_queue"),
)


def _stream_id(stream: Any) -> int:
    return int(stream.stream_id)


def missing() -> list[str]:
    """What this file relies on and the installed aioquic does not have."""
    lacks = [] if aioquic.__version__ == VERSION else [f"version {VERSION}, found {aioquic.__version__}"]
    made = QuicConnection(configuration=QuicConfiguration(is_client=True, max_datagram_size=DATAGRAM_MIN))
    made.connect(("127.0.0.1", 1), 0.0)
    space, sender = made._spaces[Epoch.ONE_RTT], made._crypto_streams[Epoch.INITIAL].sender
    crypto = made._cryptos[Epoch.INITIAL].send
    attributes: tuple[tuple[Any, tuple[str, ...]], ...] = (
        (made, RELIED_ON),
        (made._loss, ("_cc", "_pacer", "_rtt_initialized", "_rtt_min", "_rtt_smoothed", "max_ack_delay")),
        (made._loss._pacer, ("packet_time", "_max_datagram_size", "update_rate")),
        (made.tls, ("_peer_certificate", "_peer_certificate_chain", "_request_client_certificate", "session_resumed")),
        (space, ("ack_at", "ack_queue", "expected_packet_number", "largest_received_time", "received_packets")),
        (sender, ("_buffer", "buffer_is_empty", "get_frame", "highest_offset", "next_offset", "on_data_delivery")),
        (crypto, ("aead", "hp", "key_phase")),
        (crypto.hp, ("_mask",)),
        (made._cryptos[Epoch.INITIAL], ("_update_key_requested",)),
        (made._host_cids[0], ("stateless_reset_token", "was_sent", "cid")),
        (made._network_paths[0], ("addr", "bytes_sent", "is_validated", "remote_challenges")),
    )
    for where, names in attributes:
        lacks += [f"{type(where).__name__}.{name}" for name in names if not hasattr(where, name)]
    return lacks
