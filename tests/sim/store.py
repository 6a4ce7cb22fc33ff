"""The state machine's twin: what a worker's store is to a group, small enough to be compared after every entry.

Each index is applied exactly once and in order, or it asserts. A command that carries (client, sequence) is judged
here: a repeated one gets its answer again. `chain` is a running hash over all entries and answers since the first; two
replicas at one index must have equal chains, whichever way they came there (replay, snapshot, restart). It keeps no
log and does no IO; a snapshot is a value.
"""

from typing import Any
from zlib import crc32

import msgspec

from nodedb_node.raft.messages import CONFIG, DATA, Entry
from tests.sim import models


class Command(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One write. sequence 0: the client wants no protection from doubling."""

    client: int
    sequence: int
    key: str
    request: tuple[Any, ...]
    padding: bytes = b""


class Snapshot(msgspec.Struct, frozen=True):
    """The whole state at an index, and the configuration in force there (index of its entry, encoded)."""

    applied: int
    term: int
    config_index: int
    configuration: bytes
    values: dict[str, Any]
    sessions: dict[int, tuple[int, Any]]
    chain: int
    carried: bytes = b""  # of a snapshot that was installed: what the group's header says


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Command).decode


def ordered(snapshot: Snapshot) -> Snapshot:
    """The same, as every replica encodes it."""
    values, sessions = dict(sorted(snapshot.values.items())), dict(sorted(snapshot.sessions.items()))
    return msgspec.structs.replace(snapshot, values=values, sessions=sessions, carried=b"")


def thawed(decoded: Snapshot, carried: bytes) -> Snapshot:
    """A snapshot that went through its encoding: sequences are tuples again."""
    values = {key: _tuples(value) for key, value in decoded.values.items()}
    sessions = {client: (number, _tuples(answer)) for client, (number, answer) in decoded.sessions.items()}
    return msgspec.structs.replace(decoded, values=values, sessions=sessions, carried=carried)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def encode_command(command: Command) -> bytes:
    return _encode(command)


def kind_of(key: str) -> str:
    """Keys are named after what they hold: "register-3"."""
    return key.partition("-")[0]


class Store:
    """One group's state on one replica."""

    def __init__(self, configuration: bytes, snapshot: Snapshot | None = None) -> None:
        self.applied = self.term = self.chain = self.config_index = 0
        self.configuration = configuration
        self.values: dict[str, Any] = {}
        self.sessions: dict[int, tuple[int, Any]] = {}
        if snapshot:
            self.install(snapshot)

    def apply(self, index: int, entry: Entry) -> Any:
        """The command's answer; None for entries that are no commands."""
        assert index == self.applied + 1, f"entry {index} after {self.applied}"
        self.applied, self.term = index, entry.term
        if entry.kind == DATA:
            answer = self._command(_decode(entry.data))
            self.chain = crc32(_encode(answer), crc32(entry.data, self.chain))
            return answer
        if entry.kind == CONFIG:
            self.config_index, self.configuration = index, entry.data
        self.chain = crc32(b"%d" % entry.kind, self.chain)
        return None

    def _command(self, command: Command) -> Any:
        if command.sequence:
            last, answer = self.sessions.get(command.client, (0, None))
            if command.sequence == last:
                return answer
            if command.sequence < last:
                return "expired"
        key, kind = command.key, kind_of(command.key)
        value = self.values.get(key, models.INITIAL[kind])
        self.values[key], answer = models.apply(kind, value, command.request)
        if command.sequence:
            self.sessions[command.client] = (command.sequence, answer)
        return answer

    def read(self, key: str) -> Any:
        return self.values.get(key, models.INITIAL[kind_of(key)])

    def snapshot(self) -> Snapshot:
        """A consistent cut. Values are never changed in place, so copies of the dictionaries are enough."""
        place = (self.applied, self.term, self.config_index, self.configuration)
        return Snapshot(*place, dict(self.values), dict(self.sessions), self.chain)

    def install(self, snapshot: Snapshot) -> None:
        self.applied, self.term, self.chain = snapshot.applied, snapshot.term, snapshot.chain
        self.config_index, self.configuration = snapshot.config_index, snapshot.configuration
        self.values, self.sessions = dict(snapshot.values), dict(snapshot.sessions)

    def state(self) -> tuple[Any, ...]:
        """All of it, comparable."""
        return self.applied, self.chain, sorted(self.values.items()), sorted(self.sessions.items())
