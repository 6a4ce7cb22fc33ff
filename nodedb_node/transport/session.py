"""One connection's life as a session: greet, be used, be drained, end. The transitions are data.

Invariant: no frame but the greeting is read before both greetings were judged; a transition that is not in the table is
the peer's fault and ends the session as garbled; what is over stays over. Pure: it holds state, hub acts.
"""

from __future__ import annotations

from enum import Enum, auto

from nodedb_node.ids import NodeId
from nodedb_node.rpc.frame import GREETING_LIMITS, FrameReader, Kind
from nodedb_node.transport.registry import Key

GREETING_US = 2_000_000  # for both greetings, from the moment that the connection is encrypted
DRAIN_US = 5_000_000  # for what was asked before a drain


class State(Enum):
    GREETING = auto()  # we dialled and said hello
    AWAITING = auto()  # we were dialled
    UP = auto()
    DRAINING = auto()  # one of the two wants nothing new here; answers still go
    CLOSED = auto()


class Event(Enum):
    HELLO = auto()
    WELCOME = auto()
    FRAME = auto()
    GOAWAY = auto()
    DRAIN = auto()  # our own wish
    LATE = auto()
    LOST = auto()


TABLE: dict[tuple[State, Event], State] = {
    (State.GREETING, Event.WELCOME): State.UP,
    (State.GREETING, Event.DRAIN): State.CLOSED,
    (State.GREETING, Event.LATE): State.CLOSED,
    (State.GREETING, Event.LOST): State.CLOSED,
    (State.AWAITING, Event.HELLO): State.UP,
    (State.AWAITING, Event.DRAIN): State.CLOSED,
    (State.AWAITING, Event.LATE): State.CLOSED,
    (State.AWAITING, Event.LOST): State.CLOSED,
    (State.UP, Event.FRAME): State.UP,
    (State.UP, Event.GOAWAY): State.DRAINING,
    (State.UP, Event.DRAIN): State.DRAINING,
    (State.UP, Event.LOST): State.CLOSED,
    (State.DRAINING, Event.FRAME): State.DRAINING,
    (State.DRAINING, Event.GOAWAY): State.DRAINING,
    (State.DRAINING, Event.DRAIN): State.DRAINING,
    (State.DRAINING, Event.LATE): State.CLOSED,
    (State.DRAINING, Event.LOST): State.CLOSED,
    (State.CLOSED, Event.FRAME): State.CLOSED,
    (State.CLOSED, Event.LOST): State.CLOSED,
    (State.CLOSED, Event.DRAIN): State.CLOSED,
}


class Session:
    """State of one connection. dialled: by us; certified: whom its certificate names, None in insecure mode."""

    def __init__(self, link: int, dialled: bool, certified: NodeId | None, now_us: int, bulk: bool) -> None:
        self.link = link
        self.dialled = dialled
        self.certified = certified
        self.bulk = bulk
        self.state = State.GREETING if dialled else State.AWAITING
        self.late_us: int | None = now_us + GREETING_US
        self.key: Key | None = None
        self.generation = 0
        self.version = 0
        self.software = ""
        self.since_us = now_us
        self.said_goaway = False
        self.heard_goaway = False
        self.said_farewell = False
        self.heard_farewell = False
        self.requests: set[int] = set()  # of the peer, not answered yet
        self.readers: dict[Kind, FrameReader] = {Kind.CONTROL: FrameReader(Kind.CONTROL, GREETING_LIMITS)}

    @property
    def greeted(self) -> bool:
        return self.state in (State.UP, State.DRAINING)

    def move(self, event: Event, now_us: int) -> bool:
        """Take the transition; False when there is none: the peer does what no version does."""
        following = TABLE.get((self.state, event))
        if following is None:
            return False
        if following is State.UP and self.state is not State.UP:
            self.late_us = None
            self.readers[Kind.CONTROL].greeted()
        elif following is State.DRAINING and self.state is State.UP:
            self.late_us = now_us + DRAIN_US
        self.state = following
        return True

    def reader(self, kind: Kind) -> FrameReader | None:
        """For the class's stream; None where the class has no place on this connection."""
        if kind is not Kind.CONTROL and (kind is Kind.BULK) != self.bulk:
            return None
        found = self.readers.get(kind)
        if found is None:
            found = self.readers[kind] = FrameReader(kind)
        return found
