"""What the node's parts see of the network: messages to a lane of a peer, never sockets.

A lane is a process of a peer: 0 = control, i + 1 = worker i. Two implementations keep this contract, and one suite
(tests/conformance/test_transport.py) holds them to it: lanes over QUIC, and the simulated network of tests/sim.

Invariant: nothing here blocks or waits. Every queue is bounded in bytes and answers Full; a full queue loses nothing
that was accepted before. Messages of one class to one lane arrive in the order they were sent, each at most once, or
the session ended in between (on_peer tells). A call ends exactly once. Encryption, versions and addresses are below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from nodedb_node.ids import NodeId, Process
from nodedb_node.rpc.frame import Kind
from nodedb_node.rpc.status import AnyStatus


class Message(Struct, frozen=True, gc=False):
    """What is sent. type: nodedb_node.rpc.messages.Type or a number of the part's own range."""

    type: int
    body: bytes


class Accepted(Struct, frozen=True, gc=False):
    """In the queue; number: of the call, for cancel(); 0 for a message that nobody answers."""

    number: int = 0


class Full(Struct, frozen=True, gc=False):
    """Refused, nothing is kept: the queue is full, or there is no session for a message that nobody waits for."""

    why: str
    retry_after_ms: int


class Answer(Struct, frozen=True, gc=False):
    """A call's good end."""

    body: bytes


Done = Callable[[Answer | AnyStatus], None]


class Spoofed(Exception):
    """A message claims another origin than its session's. Handlers let it pass: the session ends with its reason."""


class Arrival(Struct, frozen=True, gc=False):
    """A message that came: a request when `id` is not 0; then it is to be answered, once, by reply().

    peer, lane, generation are the authenticated session's: what a body says of its origin goes through insist().
    (peer, lane, generation, id) names the request for good: asked again, it has the same name.
    """

    peer: NodeId
    lane: Process
    generation: int
    kind: Kind
    type: int
    body: bytes
    id: int
    deadline_us: int  # on the receiver's clock, 0 = none; work that starts later is wasted
    session: int
    version: int = 1

    def insist(self, claimed: NodeId) -> None:
        """Spoofed unless the node that the body names as its origin is the session's. To be called before anything of
        the message has changed anything."""
        if claimed != self.peer:
            raise Spoofed(f"type {self.type} claims to come from {claimed}")


class PeerUp(Struct, frozen=True, gc=False):
    """A session with the peer's lane began; its process has this generation."""

    peer: NodeId
    lane: Process
    generation: int


class PeerDown(Struct, frozen=True, gc=False):
    """The session ended, for what reason; messages accepted before may or may not have arrived."""

    peer: NodeId
    lane: Process
    generation: int
    why: str


class Address(Struct, frozen=True, gc=False):
    host: str
    port: int


class BulkSource(Protocol):
    """What a transfer reads from: any part of it, again after a lost connection."""

    size: int  # bytes in all

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes."""


class BulkSink(Protocol):
    """What a transfer is written to."""

    def resume_at(self) -> int:
        """The offset up to which everything was taken; 0 at first."""

    def write(self, offset: int, data: bytes) -> None:
        """The next bytes; consecutive."""

    def complete(self) -> None:
        """Everything was written."""

    def aborted(self, why: str) -> None:
        """It will not be completed."""


class BulkOffer(Struct, frozen=True, gc=False):
    """A peer wants to send. transfer: its name for good, the same when it goes on after a lost connection."""

    peer: NodeId
    lane: Process
    transfer: bytes
    purpose: str
    size: int
    argument: bytes


class Handlers(Protocol):
    """What a transport calls, never from inside a call to it."""

    def on_frame(self, arrival: Arrival) -> None: ...
    def on_peer(self, event: PeerUp | PeerDown) -> None: ...

    def on_bulk(self, offer: BulkOffer) -> BulkSink | AnyStatus:
        """Where to put it; the same sink again when a transfer of this name goes on."""


class Transport(Protocol):
    """Messages to lanes of peers. Calls from one thread; handlers are called from its loop."""

    def meet(self, peer: NodeId, lane: Process, address: Address) -> None:
        """Know where a lane is, and stay connected to it from now on. Again with another address: moves there."""

    def forget(self, peer: NodeId) -> None:
        """End the sessions with a peer and refuse to send to it."""

    def send(self, peer: NodeId, lane: Process, kind: Kind, message: Message) -> Accepted | Full:
        """A message that nobody answers."""

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
        """A request; `done` is called once, with the answer or a status. again: it may be asked anew when the session
        ends before its answer came; otherwise that is OutcomeUnknown. Full: `done` is never called."""

    def cancel(self, number: int) -> None:
        """The caller has lost interest: `done` is not called any more, the peer is told."""

    def reply(self, arrival: Arrival, result: Answer | AnyStatus) -> None:
        """The end of a request that came."""

    def bulk(
        self, peer: NodeId, lane: Process, purpose: str, argument: bytes, source: BulkSource, done: Done
    ) -> Accepted | Full:
        """Send a large body beside everything else; goes on after lost connections until it is done or refused."""
