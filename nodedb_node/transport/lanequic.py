"""aioquic's connection as lanes need it: the one file that relies on what aioquic does not promise.

Pinned to VERSION; `missing()` lists what a different one lacks, and a test fails when it is not empty. What is changed:
the server demands a certificate; acknowledgements wait longer and ride on data; no pacing and a large window while the
path is as short as a LAN's; datagrams as large as the path proves to carry, probed upwards and given up when they begin
to vanish; stateless resets by a token that survives a restart; four one-way streams and nothing else.

Invariant: sans-IO: now and datagrams come in, datagrams and events go out. No session tickets, no 0-RTT, ever.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from typing import Any

import aioquic
from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE, QuicConfiguration
from aioquic.quic.congestion.base import QuicCongestionControl, register_congestion_control
from aioquic.quic.connection import END_STATES, Limit, QuicConnection
from aioquic.quic.packet import QuicFrameType, QuicPacketType, QuicProtocolVersion
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder, QuicSentPacket
from aioquic.quic.recovery import QuicPacketPacer
from aioquic.tls import Epoch
from cryptography.hazmat.primitives.serialization import Encoding

from nodedb_node.config import KIB, MIB
from nodedb_node.rpc.frame import Kind
from nodedb_node.rpc.hello import ALPN

VERSION = "1.7.2"
CID_BYTES = 8
STREAMS = len(Kind)  # one-way, in each direction; the class is the stream's number in order
ACK_DELAY_S = 0.008
PEER_ACK_DELAY_S = 0.012  # what we allow for it in probe timeouts: the peer runs this file too
ACK_EVERY = 64  # datagrams, whatever the delay says
IDLE_S = 1.3  # without an authentic datagram: the peer is dead
KEEPALIVE_S = 0.3
INITIAL_RTT_S = 0.05
STREAM_WINDOW = 64 * MIB
CONNECTION_WINDOW = 128 * MIB

LAN_RTT_S = 0.005
WINDOW_FIRST = 256 * KIB
WINDOW_MAX = 4 * MIB
WINDOW_LAN_MIN = 128 * KIB
TURN_BYTES = 512 * KIB  # given to the network per turn: other connections and the peer's answers get theirs

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
        self.near = True
        self.turn_bytes = TURN_BYTES
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
            self.window = min(WINDOW_MAX, self.window + packet.sent_bytes)
        else:
            self.window = min(WINDOW_MAX, self.window + self.mtu * packet.sent_bytes // self.window)

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
            super().update_rate(congestion_window, smoothed_rtt)


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
        return self._state in END_STATES

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
    def more_to_send(self) -> bool:
        """The turn's share was used up while there was more."""
        return self._cc.turn_bytes <= 0 and any(not one.sender.buffer_is_empty for one in self._streams.values())

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
        if not self._is_client:
            self.tls._request_client_certificate = self._demand_certificate

    def _replenish_connection_ids(self) -> None:
        super()._replenish_connection_ids()
        for one in self._host_cids:
            if not one.was_sent:
                one.stateless_reset_token = self._reset_token(one.cid)

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        self._now = now
        super().receive_datagram(data, addr, now)
        self._unacked += 1

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        """As aioquic's, with the acknowledgement that is due soon riding on data that goes now, and probes."""
        cc = self._cc
        cc.turn_bytes = TURN_BYTES
        cc.near = self._pacer.near = self._loss._rtt_min < LAN_RTT_S or not self._loss._rtt_initialized
        if self._handshake_confirmed and not self.ended:
            self._loss.max_ack_delay = PEER_ACK_DELAY_S
            space = self._spaces[Epoch.ONE_RTT]
            if space.ack_at is not None and (self._unacked >= ACK_EVERY or self._has_data()):
                space.ack_at = now
            if cc.hole_events >= HOLE_EVENTS and self._max_datagram_size > DATAGRAM_MIN:
                self._hole(now)
        datagrams = super().datagrams_to_send(now)
        if datagrams and self._handshake_confirmed and self._spaces[Epoch.ONE_RTT].ack_at is None:
            self._unacked = 0
        return datagrams

    def get_timer(self) -> float | None:
        timer = super().get_timer()
        if self._probe_at is not None and not self.ended and (timer is None or self._probe_at < timer):
            return self._probe_at
        return timer

    def _has_data(self) -> bool:
        return any(not one.sender.buffer_is_empty for one in self._streams.values())

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
    *("_streams", "_version", "tls"),
)


def missing() -> list[str]:
    """What this file relies on and the installed aioquic does not have."""
    lacks = [] if aioquic.__version__ == VERSION else [f"version {VERSION}, found {aioquic.__version__}"]
    made = QuicConnection(configuration=QuicConfiguration(is_client=True, max_datagram_size=DATAGRAM_MIN))
    made.connect(("127.0.0.1", 1), 0.0)
    attributes: dict[Any, tuple[str, ...]] = {
        made: RELIED_ON,
        made._loss: ("_cc", "_pacer", "_rtt_initialized", "_rtt_min", "_rtt_smoothed", "max_ack_delay"),
        made._loss._pacer: ("packet_time", "_max_datagram_size", "update_rate"),
        made.tls: ("_peer_certificate", "_peer_certificate_chain", "_request_client_certificate", "session_resumed"),
        made._spaces[Epoch.ONE_RTT]: ("ack_at",),
        made._crypto_streams[Epoch.INITIAL].sender: ("_buffer", "buffer_is_empty"),
        made._host_cids[0]: ("stateless_reset_token", "was_sent", "cid"),
    }
    for where, names in attributes.items():
        lacks += [f"{type(where).__name__}.{name}" for name in names if not hasattr(where, name)]
    return lacks
