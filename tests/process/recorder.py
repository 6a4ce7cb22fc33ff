"""Records what clients were told under faults, and afterwards judges whether the server kept its word.

Clients run INCR, APPEND (unique tokens) and SET; every operation ends acknowledged, refused (the server said it did not
happen) or unknown (no reply, or one that says so). The check: nothing acknowledged is lost, nothing happens twice,
nothing refused happens, no unknown value comes from nowhere. The checker is a pure function of history and final state;
it does not talk to a server.
"""

from __future__ import annotations

import enum
import itertools
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from tests.process.wire import Connection, ErrorReply, Reply, slot, slot_ports

REPLY_SECONDS_MAX = 8.0
"""Past the default deadline of 4 s with slack: a reply that takes longer is a hang."""
RECONNECT_SECONDS = 0.02
PIPELINE_MAX = 4
UNKNOWN_KINDS = frozenset({"UNKNOWN"})
REFUSED_KINDS = frozenset({"OVERLOAD", "NOSPACE", "TRYAGAIN", "CLUSTERDOWN", "MOVED", "DEADLINE", "LOADING"})


class Outcome(enum.Enum):
    ACKED = "acked"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass
class Operation:
    client: int
    verb: str
    key: bytes
    token: bytes
    """The value of SET, the piece of APPEND, empty for INCR."""
    begun: float
    ended: float = 0.0
    outcome: Outcome = Outcome.UNKNOWN
    reply: Reply = None
    port: int = 0

    @property
    def words(self) -> tuple[bytes, ...]:
        rest = () if self.verb == "INCR" else (self.token,)
        return (self.verb.encode(), self.key, *rest)


@dataclass(frozen=True)
class Target:
    """Where one client connects, and the names of the keys it may use."""

    port: int
    counters: tuple[bytes, ...]
    lists: tuple[bytes, ...]
    registers: tuple[bytes, ...]
    """Keys that only this client writes."""


def classify(reply: Reply) -> Outcome:
    """An error that nobody promised is a test failure, not an outcome."""
    if not isinstance(reply, ErrorReply):
        return Outcome.ACKED
    if reply.kind in UNKNOWN_KINDS:
        return Outcome.UNKNOWN
    if reply.kind in REFUSED_KINDS:
        return Outcome.REFUSED
    raise AssertionError(f"a client got an error outside the error table: {reply}")


@dataclass
class Recorder:
    """Client threads against one node: start(), faults, stop(), then verify(port)."""

    targets: list[Target]
    seed: int
    history: list[Operation] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stopping = threading.Event()
        self.threads = [
            threading.Thread(target=self.client, args=(number, target), daemon=True)
            for number, target in enumerate(self.targets)
        ]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        """Ends every client; operations in flight get their reply or their timeout first."""
        self.stopping.set()
        for thread in self.threads:
            thread.join(REPLY_SECONDS_MAX + 5)
        assert not any(thread.is_alive() for thread in self.threads), "a client thread hangs beyond its socket timeout"

    def acked(self) -> int:
        return sum(one.outcome is Outcome.ACKED for one in list(self.history))

    def wait_acked(self, more: int, seconds: float = 10.0, port: int | None = None) -> None:
        """Until this many further operations are acknowledged (through one port, if given)."""
        seen, have, deadline = len(self.history), 0, time.monotonic() + seconds
        while have < more:
            fresh = self.history[seen:]
            have += sum(one.outcome is Outcome.ACKED and port in (None, one.port) for one in fresh)
            seen += len(fresh)
            assert not self.failures, self.failures
            last = [one.reply for one in self.history[-2:]]
            assert time.monotonic() < deadline, f"only {have} of {more} acknowledged within {seconds} s, last {last}"
            self.stopping.wait(0.01)

    def client(self, number: int, target: Target) -> None:
        rng = random.Random(self.seed * 1000 + number)
        serial = 0
        while not self.stopping.is_set():
            try:
                with Connection(target.port, REPLY_SECONDS_MAX) as link:
                    while not self.stopping.is_set():
                        batch = [
                            self.draw(rng, number, target, serial + i) for i in range(rng.randint(1, PIPELINE_MAX))
                        ]
                        serial += len(batch)
                        self.run(link, batch)
            except OSError:
                self.stopping.wait(RECONNECT_SECONDS)
            except AssertionError as error:
                self.failures.append(f"client {number}: {error}")
                return

    def draw(self, rng: random.Random, number: int, target: Target, serial: int) -> Operation:
        verb = rng.choice(("INCR", "APPEND", "SET"))
        keys = {"INCR": target.counters, "APPEND": target.lists, "SET": target.registers}[verb]
        token = b"" if verb == "INCR" else b"%d.%d;" % (number, serial)
        return Operation(number, verb, rng.choice(keys), token, time.monotonic(), port=target.port)

    def run(self, link: Connection, batch: list[Operation]) -> None:
        """Send a pipeline and record each reply; what has none when the connection breaks stays unknown."""
        current = batch[0]
        try:
            link.send(*(one.words for one in batch))
            for current in batch:
                current.reply = link.read()
                current.ended = time.monotonic()
                current.outcome = classify(current.reply)
        except TimeoutError:
            self.hangs.append(f"{current.verb} of client {current.client} had no reply for {REPLY_SECONDS_MAX} s")
            raise
        finally:
            self.history.extend(batch)

    def verify(self, port: int) -> None:
        """Raise AssertionError with every broken promise; the server must be serving on this port."""
        problems = self.failures + self.hangs + check(self.history, read_state(port, {one.key for one in self.history}))
        assert not problems, f"seed {self.seed}: {len(problems)} broken promises, first: {problems[:5]}"


def read_state(port: int, keys: Iterable[bytes]) -> dict[bytes, bytes | None]:
    names = sorted(keys)
    with Connection(port) as link:
        replies = link.pipeline(("GET", name) for name in names)
    state: dict[bytes, bytes | None] = {}
    for name, reply in zip(names, replies, strict=True):
        assert reply is None or isinstance(reply, bytes), f"GET {name!r} answered {reply!r}"
        state[name] = reply
    return state


def check(history: list[Operation], state: Mapping[bytes, bytes | None]) -> list[str]:
    """Every promise of the history that the final state breaks."""
    by_key: dict[tuple[str, bytes], list[Operation]] = defaultdict(list)
    for one in history:
        by_key[one.verb, one.key].append(one)
    checks: dict[str, Callable[[bytes, list[Operation], bytes | None], list[str]]] = {
        "INCR": check_counter,
        "APPEND": check_list,
        "SET": check_register,
    }
    return [
        problem for (verb, key), found in sorted(by_key.items()) for problem in checks[verb](key, found, state.get(key))
    ]


def check_counter(key: bytes, found: list[Operation], value: bytes | None) -> list[str]:
    final = int(value or 0)
    replies = [one.reply for one in found if one.outcome is Outcome.ACKED]
    unknown = sum(one.outcome is Outcome.UNKNOWN for one in found)
    problems = []
    if not len(replies) <= final <= len(replies) + unknown:
        problems.append(f"INCR {key!r}: {len(replies)} acknowledged and {unknown} unknown, but the value is {final}")
    repeated = [reply for reply, count in Counter(map(str, replies)).items() if count > 1]
    if repeated:
        problems.append(f"INCR {key!r}: the same value was given twice: {repeated[:3]}")
    return problems


def check_list(key: bytes, found: list[Operation], value: bytes | None) -> list[str]:
    tokens = Counter((value or b"").split(b";")[:-1])
    problems = []
    for one in found:
        count = tokens.pop(one.token[:-1], 0)
        if count > 1:
            problems.append(f"APPEND {key!r}: {one.token!r} was applied {count} times")
        if count == 0 and one.outcome is Outcome.ACKED:
            problems.append(f"APPEND {key!r}: acknowledged {one.token!r} is lost")
        if count and one.outcome is Outcome.REFUSED:
            problems.append(f"APPEND {key!r}: {one.token!r} was refused with {one.reply!r} and still applied")
    if tokens:
        problems.append(f"APPEND {key!r}: pieces that nobody wrote: {list(tokens)[:3]}")
    return problems


def check_register(key: bytes, found: list[Operation], value: bytes | None) -> list[str]:
    """The value is the last acknowledged one or an unknown one sent after it; without any, there may be none."""
    allowed: set[bytes | None] = {None}
    for one in found:
        if one.outcome is Outcome.ACKED:
            allowed = {one.token}
        elif one.outcome is Outcome.UNKNOWN:
            allowed.add(one.token)
    return (
        []
        if value in allowed
        else [f"SET {key!r}: the value is {value!r}, allowed were {sorted(map(str, allowed))[:5]}"]
    )


def longest_gap(history: Iterable[Operation], begun: float, ended: float) -> float:
    """The longest time between two acknowledgements in [begun, ended], its edges included."""
    times = sorted(one.ended for one in history if one.outcome is Outcome.ACKED and begun <= one.ended <= ended)
    edges = [begun, *times, ended]
    return max(after - before for before, after in itertools.pairwise(edges))


def shared_targets(port: int, clients: int, prefix: bytes = b"") -> list[Target]:
    """Clients on one port whose keys spread over every slot; counters and lists are shared between them."""
    counters = tuple(prefix + b"counter:%d" % number for number in range(16))
    lists = tuple(prefix + b"list:%d" % number for number in range(32))
    return [
        Target(port, counters, lists, tuple(prefix + b"register:%d:%d" % (client, number) for number in range(8)))
        for client in range(clients)
    ]


def worker_targets(port: int, clients_per_worker: int, prefix: bytes = b"") -> list[Target]:
    """Clients on every worker port, each with keys of that worker only; asks the shared port who owns what."""
    owners = slot_ports(port)
    targets = []
    for worker in sorted(set(owners.values())):
        tags = [b"{%d}" % number for number in range(2000) if owners[slot(b"{%d}" % number)] == worker][:16]
        for client in range(clients_per_worker):
            named = [prefix + tag for tag in tags]
            counters, lists = (tuple(name + kind for name in named) for kind in (b"count", b"list"))
            registers = tuple(name + b"own:%d" % client for name in named)
            targets.append(Target(worker, counters, lists, registers))
    return targets
