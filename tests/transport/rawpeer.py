"""A hand-made peer: aioquic's plain connection with any certificate, that says any bytes on any stream."""

import ssl
import time
from typing import Any

from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from nodedb_node.ids import NodeId, Process
from nodedb_node.native.udp import Udp, bound
from nodedb_node.rpc import hello
from nodedb_node.rpc.frame import Flag, Frame, FrameReader, Kind, encode
from nodedb_node.rpc.hello import ALPN, Hello, Local, Why
from nodedb_node.rpc.messages import Type
from tests.transport.kit import CLUSTER, QuicPlayer, QuicStage

CONTROL_STREAM = 2  # the first one-way stream of who dials


class RawPeer:
    """Dials one endpoint. `closed`: (code, is an application's, reason) once the other side has closed."""

    def __init__(self, stage: QuicStage, server: QuicPlayer, certificate: Any = None, key: Any = None, **config: Any):
        self.stage = stage
        self.server = server
        self.closed: tuple[int, bool, str] | None = None
        self.handshaken = False
        self.frames: list[Frame] = []
        self.data = bytearray()
        self.tickets: list[Any] = []
        self._reader = FrameReader(Kind.CONTROL)
        self._udp = Udp(bound("127.0.0.1", 0), 1 << 20)
        configuration = QuicConfiguration(
            **{
                "alpn_protocols": [ALPN],
                "is_client": True,
                "verify_mode": ssl.CERT_NONE,
                "certificate": certificate,
                "private_key": key,
                "idle_timeout": 20.0,
                **config,
            }
        )
        self.quic = QuicConnection(configuration=configuration, session_ticket_handler=self.tickets.append)
        self._to = (server.address.host, server.address.port)
        self.quic.connect(self._to, time.monotonic())
        stage.loop.add_reader(self._udp.fileno(), self._readable)
        self._transmit()

    def say(self, stream: int, data: bytes, end: bool = False) -> None:
        self.quic.send_stream_data(stream, data, end)
        self._transmit()

    def frame(self, frame: Frame, stream: int = CONTROL_STREAM) -> None:
        self.say(stream, b"".join(encode(frame)))

    def greet(self, greeting: Hello | bytes) -> None:
        body = greeting if isinstance(greeting, bytes) else hello.encode(greeting)
        self.frame(Frame(Type.HELLO, Flag.REQUEST, Kind.CONTROL, 1, 0, body))

    def wait(self, within_s: float = 5.0) -> tuple[int, bool, str]:
        """How the other side closed."""
        self.stage.run(lambda: self.closed is not None, within_s)
        assert self.closed is not None
        return self.closed

    def refused(self, why: Why, within_s: float = 5.0) -> str:
        code, application, reason = self.wait(within_s)
        assert application and code == why.value, (hex(code), application, reason)
        return reason

    def welcomed(self, within_s: float = 5.0) -> Hello:
        self.stage.run(lambda: bool(self.frames) or self.closed is not None, within_s)
        assert self.closed is None, self.closed
        assert self.frames[0].type == Type.WELCOME
        found = hello.decode_hello(self.frames[0].body)
        assert isinstance(found, Hello)
        return found

    def close(self) -> None:
        self.stage.loop.remove_reader(self._udp.fileno())
        self._udp.close()

    def _readable(self) -> None:
        for data, _ in self._udp.receive():
            self.quic.receive_datagram(data, self._to, time.monotonic())
        while (event := self.quic.next_event()) is not None:
            if isinstance(event, events.HandshakeCompleted):
                self.handshaken = True
            elif isinstance(event, events.ConnectionTerminated):
                self.closed = (event.error_code, event.frame_type is None, event.reason_phrase)
            elif isinstance(event, events.StreamDataReceived):
                self.data += event.data
                if event.stream_id == 3:
                    self.frames += self._reader.feed(event.data)
        # A peer's close is reported after its drain time; nobody wants to wait for it here.
        close = self.quic._close_event
        if close is not None and self.closed is None and self.quic._state.name == "DRAINING":
            self.closed = (close.error_code, close.frame_type is None, close.reason_phrase)
        self._transmit()

    def _transmit(self) -> None:
        now = time.monotonic()
        for data, _ in self.quic.datagrams_to_send(now):
            self._udp.send(self._to, data, len(data))
        at = self.quic.get_timer()
        if at is not None:
            self.stage.loop.call_later(max(0.0, at - now), self._timer)

    def _timer(self) -> None:
        if self._udp._handle is None:
            return
        at = self.quic.get_timer()
        if at is not None and at <= time.monotonic():
            self.quic.handle_timer(time.monotonic())
            self._transmit()


def member(stage: QuicStage, server: QuicPlayer, node: NodeId, **certificate: Any) -> RawPeer:
    """With a good certificate of this node, but for what is named."""
    issuer = stage.authority
    return RawPeer(stage, server, issuer.certificate(node, **certificate), issuer.keys[node]._key)


def greeting(node: NodeId, **other: Any) -> Hello:
    fields = {"cluster_id": CLUSTER, "node_id": node, "generation": 1, "nonce": b"x" * 16, "lane": Process(0)}
    return Local(**{**fields, **other}).hello(Process(0), bulk=False)
