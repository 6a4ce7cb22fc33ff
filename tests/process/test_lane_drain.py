"""Processes of a running node end and start anew while a peer asks them: every question gets its answer, once."""

import asyncio
import os
import re
import secrets
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from nodedb_node.cli.peer import credentials_of
from nodedb_node.ids import ClusterId, NodeId
from nodedb_node.native.udp import Udp, bound
from nodedb_node.rpc.frame import Kind
from nodedb_node.rpc.hello import ANY_LANE, ANYONE, Local
from nodedb_node.rpc.messages import Type
from nodedb_node.rpc.status import DeadlineExceeded
from nodedb_node.supervisor.datadir import identity_of
from nodedb_node.transport.interface import Accepted, Address, Answer, Arrival, BulkOffer, Message, PeerDown, PeerUp
from nodedb_node.transport.quic import Endpoint
from tests.process.node import Node, wait_for
from tests.process.test_lanes import lanes

pytestmark = pytest.mark.process

WINDOW = 16  # questions on their way
BODY_BYTES = 20_000


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Node(tmp_path, workers=2) as made:
        made.start()
        yield made


class Asker:
    """A tool's lane to one process; asks again and again, each question with its own body. `ends` by number."""

    def __init__(self, node: Node, address: str) -> None:
        ids = identity_of(str(node.data_dir))
        cluster, self.node_id = ClusterId(ids.cluster_id), NodeId(ids.node_id)
        local = Local(cluster, self.node_id, time.time_ns() // 1_000_000, secrets.token_bytes(16), ANY_LANE)
        credentials = credentials_of(str(node.data_dir), False, cluster, self.node_id)
        loop = asyncio.get_running_loop()
        self.endpoint = Endpoint(loop, Udp(bound("127.0.0.1", 0), 4 << 20), credentials, local, self)
        self.ups: list[PeerUp] = []
        self.ends: dict[int, list[Any]] = {}
        self.asking = True
        self.deadline_ms = 20_000
        self._lane: PeerUp | None = None
        host, _, port = address.partition(":")
        self._address = Address(host, int(port))
        self.endpoint.hub.meet(ANYONE, ANY_LANE, self._address)

    def on_frame(self, arrival: Arrival) -> None:
        raise AssertionError("nobody asks a tool")

    def on_bulk(self, offer: BulkOffer) -> Any:
        raise AssertionError("nobody sends to a tool")

    def on_peer(self, event: PeerUp | PeerDown) -> None:
        if isinstance(event, PeerUp):
            self.ups.append(event)

    @property
    def open(self) -> int:
        return sum(not got for got in self.ends.values())

    async def until(self, condition: Any, what: str, seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, what
            self.ask()
            await asyncio.sleep(0.001)

    def ask(self) -> None:
        """As many as the window has room for, if there is a session."""
        if not self.ups or not self.asking:
            return
        if self._lane is None:
            self._lane = self.ups[0]
            self.endpoint.hub.meet(self._lane.peer, self._lane.lane, self._address)
            self.endpoint.hub.forget(ANYONE)
        while self.open < WINDOW:
            got: list[Any] = []
            body = b"%d " % len(self.ends) + bytes(BODY_BYTES)
            taken = self.endpoint.hub.call(
                self._lane.peer, self._lane.lane, Kind.QUERY, Message(Type.ECHO, body), self.deadline_ms, got.append
            )
            if not isinstance(taken, Accepted):
                return
            self.ends[len(self.ends)] = got

    def check(self, *others: Any) -> None:
        """others: what may be instead of an answer."""
        for number, got in self.ends.items():
            right = Answer(b"%d " % number + bytes(BODY_BYTES))
            assert len(got) == 1 and got[0] in (right, *others), f"question {number} of {len(self.ends)}: {got}"


def opened(node: Node, process: str, count: int) -> bool:
    return len(re.findall(f'process={process} msg="lane open"', node.log())) >= count


async def restart(node: Node, process: str, asker: Asker) -> None:
    os.kill(node.pids()[process], signal.SIGTERM)
    await asker.until(lambda: opened(node, process, 2), "its lane to open again")
    asked = len(asker.ends)
    await asker.until(lambda: len(asker.ends) > asked + 3 * WINDOW, "questions to be answered again")
    assert len({up.generation for up in asker.ups}) == 2


def test_workers_restart_one_by_one_and_the_node_ends_under_questions(node: Node) -> None:
    async def run() -> None:
        askers = [Asker(node, address) for address in lanes(node)]
        for one in askers:
            await one.until(lambda one=one: len(one.ends) > 3 * WINDOW, "questions to be answered")
        await restart(node, "worker-0", askers[1])
        await restart(node, "worker-1", askers[2])
        for one in askers:
            one.asking = False
            await one.until(lambda one=one: one.open == 0, "all answers")
            one.check()
            one.asking, one.deadline_ms = True, 1_000
            one.ask()
        node.signal(signal.SIGTERM)
        for one in askers:
            await one.until(lambda one=one: not one.endpoint.hub.lanes()[0].up, "the node to say goodbye")
        for one in askers:
            one.asking = False
            await one.until(lambda one=one: one.open == 0, "the last answers")
            one.check(DeadlineExceeded())  # of what came after the goodbye and was never sent
            one.endpoint.close()
        wait_for(lambda: not node.running, "the node to end", 15)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
