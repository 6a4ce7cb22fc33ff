"""Clients that work on keys of one kind, and the judgement of what they saw.

Three verbs, as in FoundationDB's workloads: setup, start, check. A client has one operation open at a time; it asks any
node, follows hints, and asks again when no answer comes: a write that carries (client, sequence) takes effect once
however often it is sent; one that does not is sent again only while it was surely never appended. Invariant: the
history holds every operation that may have taken effect, with the real times of call and answer.
"""

from typing import Any

from tests.sim import models
from tests.sim.cluster import Cluster
from tests.sim.linearizability import Operation
from tests.sim.process import Request
from tests.sim.spec import WorkloadShape
from tests.sim.store import Command, encode_command
from tests.sim.world import Violation

PATIENCE_US = 700_000
ATTEMPTS_MAX = 40
BACK_OFF_MAX = 8  # where nobody serves, clients ask more and more seldom
OPERATIONS_PER_KEY = 120


class Workload:
    """Clients on keys of one kind. number: among the run's workloads, so that keys and clients differ."""

    def __init__(self, cluster: Cluster, shape: WorkloadShape, number: int) -> None:
        self.cluster, self.shape, self.number = cluster, shape, number
        self.kind = shape.kind
        self.histories: dict[str, list[Operation]] = {}
        self.keys: list[str] = []
        self.counts: list[int] = []
        self.stopped = False
        self.undecided = 0

    def setup(self) -> None:
        self.keys = [self._name(i, 0) for i in range(self.shape.keys)]
        self.counts = [0] * self.shape.keys
        base = self.number * 1000
        self.clients = [Client(self, base + i + 1) for i in range(self.shape.clients)]

    def start(self) -> None:
        for client in self.clients:
            self.cluster.world.after(self.cluster.world.between(1, 50_000), client.ask)

    def stop(self) -> None:
        """No new operations."""
        self.stopped = True

    def idle(self) -> bool:
        return all(client.operation is None for client in self.clients)

    def _name(self, i: int, turn: int) -> str:
        return f"{self.kind}-{self.number}.{i}.{turn}"

    def _group(self, i: int, turn: int) -> int:
        """Keys are spread over the groups."""
        return (i + turn) % self.cluster.spec.cluster.groups + 1

    def pick_key(self) -> tuple[str, int]:
        """A key and its group; given up for a fresh one when its history has grown long, as the search takes longer."""
        i = self.cluster.world.between(0, len(self.keys) - 1)
        self.counts[i] += 1
        turn, begins = divmod(self.counts[i], OPERATIONS_PER_KEY)
        if not begins:
            self.keys[i] = self._name(i, turn)
        return self.keys[i], self._group(i, turn)

    def pick_request(self, serial: int) -> tuple[Any, ...]:
        world = self.cluster.world
        if world.chance(self.shape.reads):
            return ("read",)
        if self.kind == "register":
            low = world.between(0, 2)
            return ("cas", serial - low, serial) if world.chance(0.2) else ("write", serial)
        if self.kind == "counter":
            return ("add", 1)
        return ("append", serial) if self.kind == "list" else ("insert", world.between(0, 40))

    def record(self, key: str, operation: Operation) -> None:
        self.histories.setdefault(key, []).append(operation)

    def check(self) -> None:
        """Every key's history is linearizable."""
        for client in self.clients:
            client.give_up()
        for key, history in self.histories.items():
            verdict = models.judge(self.kind, history)
            if verdict.undecided:
                self.undecided += 1
            elif not verdict.ok:
                tail = "\n  ".join(str(operation) for operation in verdict.linearized[-6:])
                stuck = "\n  ".join(str(operation) for operation in verdict.stuck_at)
                raise Violation(f"linearizability: {key}: after\n  {tail}\nnone of these fits:\n  {stuck}")


class Client:
    """One client; `number` is its identity in tokens."""

    def __init__(self, workload: Workload, number: int) -> None:
        self.workload, self.number = workload, number
        self.cluster, self.world = workload.cluster, workload.cluster.world
        self.tokens = self.world.chance(workload.shape.tokens)
        self.operation: Operation | None = None
        self.key, self.group = "", 0
        self.payload = b""
        self.sequence = self.serial = self.attempts = 0
        self.hint = 0
        self.leaves_us = self.timeout_us = 0  # of the newest attempt
        self.timing = False  # one timer for all of them

    def ask(self, wait_us: int = 0) -> None:
        """Begin the next operation, then."""
        workload = self.workload
        if workload.stopped:
            return
        self.serial += 1
        self.key, self.group = workload.pick_key()
        request = workload.pick_request(self.serial * 10_000 + self.number)
        self.operation = Operation(self.number, self.world.now_us + wait_us, None, request)
        self.payload = b""
        if request[0] != "read":
            self.sequence += 1
            token = self.sequence if self.tokens else 0
            padding = bytes(self.world.between(0, workload.shape.padding))
            self.payload = encode_command(Command(self.number, token, self.key, request, padding))
        self.attempts = 0
        self._send(wait_us)

    def _send(self, wait_us: int = 0) -> None:
        self.attempts += 1
        group = self.group
        cluster, world = self.cluster, self.world
        node = self.hint or world.between(1, cluster.spec.cluster.nodes)
        process = cluster.process(node, cluster.worker_of(group))
        if not world.chance(cluster.network.weather.loss):
            request = Request(self, self.serial, group, self.key, self.payload)
            world.after(wait_us + world.between(100, 500), process.request, request)
        self.leaves_us = world.now_us + wait_us
        self.timeout_us = self.leaves_us + PATIENCE_US
        if not self.timing:
            self.timing = True
            world.at(self.timeout_us, self._timed_out)

    def answered(self, serial: int, outcome: str, value: Any) -> None:
        self.cluster.client_messages += 1
        operation = self.operation
        if operation is None or serial != self.serial:
            return
        if outcome == "done":
            self._finish(operation._replace(return_us=self.world.now_us, answer=value))
        elif outcome == "unknown":
            self._unknown(operation)
        elif self.leaves_us <= self.world.now_us:  # else the next attempt is under way
            self.hint = value
            longest_us = 40_000 * min(self.attempts, BACK_OFF_MAX)
            self._send(self.world.between(1_000, longest_us))

    def _timed_out(self) -> None:
        self.timing = False
        if self.operation is None:
            return
        if self.timeout_us > self.world.now_us:
            self.timing = True
            self.world.at(self.timeout_us, self._timed_out)
            return
        self.hint = 0
        self._unknown(self.operation)

    def _unknown(self, operation: Operation) -> None:
        """It may have taken effect, or may yet."""
        may_repeat = self.tokens or not self.payload
        if may_repeat and self.attempts < ATTEMPTS_MAX:
            self._send()
        else:
            self._finish(operation)

    def _finish(self, operation: Operation) -> None:
        if operation.return_us is not None or self.payload:
            self.workload.record(self.key, operation)
        self.operation = None
        self.ask(self.world.between(0, self.workload.shape.think_us))

    def give_up(self) -> None:
        """The run ends: what is open stays unknown."""
        if self.operation is not None and self.payload:
            self.workload.record(self.key, self.operation)
        self.operation = None
