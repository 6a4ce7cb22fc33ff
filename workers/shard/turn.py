"""The worker's turn: what happens between a readable descriptor and the loop's next wait.

poll → propose → flush when clients or rings have something; reap → commit → propose → flush when an append is durable.
Invariant: at most one append is in flight, and everything that arrives meanwhile gathers for the next one; nothing is
applied before the log says it is committed. Work here is per turn, never per command. It knows no socket and no file:
the loop hands it `now`, the engine and the log do the rest.
"""

from collections.abc import Callable
from typing import Any, Protocol

from nodedb_node.clocks.hlc import Hlc
from nodedb_node.errors import Kind, NodeError
from nodedb_node.ids import GroupId
from nodedb_node.native import engine as native
from nodedb_node.native.engine import Engine


class Log(Protocol):
    """The worker's log: it makes entries of sealed batches and says when they are committed."""

    @property
    def busy(self) -> bool:
        """An append is in flight."""

    def propose(self, records: Any, n: int, reserve: bool) -> bool:
        """Give each record its term and index and write them; False: below the free-space floor, nothing written.
        A record with index 0 was refused by its group, with the text that its term names."""

    def take_halted(self) -> list[tuple[GroupId, str]]:
        """Groups that serve no more since the last call, and why."""

    def reap(self) -> tuple[Any, int]:
        """(nd_commit array, length) of what is committed now; length 0 = nothing yet. OSError: the disk failed."""


class Hooks(Protocol):
    """What a turn may find for others to do."""

    def run_commands(self) -> None:
        """Commands for Python wait, or answers to its calls."""

    def log_events(self) -> None:
        """The engine noted something."""

    def again(self) -> None:
        """Work was left: a turn soon."""

    def watch_clients(self, watch: bool) -> None:
        """Stop or go on looking at client sockets."""

    def no_space(self) -> None:
        """The log refused for lack of disk space."""

    def committed(self) -> None:
        """Entries were applied."""


class Turns:
    """One worker's turns."""

    def __init__(
        self, engine: Engine, log: Log, hlc: Hlc, hooks: Hooks, now_us: Callable[[], int], wall_ms: Callable[[], int]
    ) -> None:
        self._engine = engine
        self._log = log
        self._hlc = hlc
        self._hooks = hooks
        self._now_us = now_us
        self._wall_ms = wall_ms
        self._paused = False

    def on_clients(self) -> None:
        self._turn(0)

    def on_bell(self) -> None:
        self._turn(1)

    def on_log(self) -> None:
        """The log's descriptor is readable: an append may be done."""
        commits, n = self._log.reap()
        if n == 0:
            self.refuse_halted()
            self.propose()  # what gathered while the log wrote something of its own
            return
        now_us = self._now_us()
        bits = self._engine.commit(commits, n, now_us)
        self.refuse_halted()  # here nothing is in flight, however busy the disk
        if bits & native.PROPOSE:
            self._propose(now_us)  # the disk works while replies are written
        if self._paused:
            self._paused = False
            self._hooks.watch_clients(True)
        self._hooks.committed()
        self.flush(now_us)

    def on_deadlines(self, late: bool) -> None:
        """Answer what is past its time, after what is done already. late: the process did not run when it should have:
        an append may have ended and peers may have answered meanwhile, and no command is unknown that they decide."""
        if self._log.busy:
            self.on_log()
        if late:
            self.on_bell()
        self.after(self._engine.expire(self._now_us()))

    def flush(self, now_us: int) -> None:
        """Send what connections and peers are owed."""
        self.after(self._engine.flush(now_us))

    def propose(self) -> None:
        """Write what has gathered, unless an append is in flight: its end will."""
        if not self._log.busy:
            self._propose(self._now_us())

    def refuse_halted(self) -> None:
        """Whoever asks a halted group is told why; not while an append is in flight that may hold its batches."""
        if self._log.busy:
            return
        for group, why in self._log.take_halted():
            self._engine.halt(group, NodeError(Kind.HALTED, group=group, why=why).text())

    def after(self, bits: int) -> None:
        """Do what a flush or a deadline sweep found."""
        if bits & (native.PYTHON | native.CALLS):
            self._hooks.run_commands()
        if bits & native.EVENTS:
            self._hooks.log_events()
        if bits & native.MORE:
            self._hooks.again()

    def read_stamp(self) -> int:
        """The stamp that reads of this turn see: never behind what was written."""
        return max(self._wall_ms() << 16, self._hlc.last)

    def _turn(self, rung: int) -> None:
        now_us = self._now_us()
        bits = self._engine.poll(now_us, self.read_stamp(), rung)
        if bits & native.PROPOSE and not self._log.busy:
            self._propose(now_us)
        # Only the end of an append goes on with the clients; without one in flight (it was refused) nothing would.
        if bits & native.PAUSED and self._log.busy and not self._paused:
            self._paused = True
            self._hooks.watch_clients(False)
        self.flush(now_us)

    def _propose(self, now_us: int) -> None:
        stamp = self._hlc.now(self._wall_ms())
        n = self._engine.seal(stamp, stamp, now_us)
        if n == 0:
            return
        # Deletes and expiries may use the reserve: they are how space comes back.
        reserve = not self._engine.sealed_needs_space()
        if self._log.propose(self._engine.records, n, reserve):
            if self._engine.proposed(n):
                self._hooks.again()  # to send the refusals
        else:
            self._engine.refuse_sealed(native.TEXT_NOSPACE)
            self._hooks.no_space()
            self._hooks.again()  # to send the refusals, and for what did not fit into this append
