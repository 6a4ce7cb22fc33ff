"""Both transports keep the contract of nodedb_node/transport/interface.py."""

import os
from collections.abc import Callable

import pytest

from nodedb_node.ids import NodeId
from nodedb_node.transport.interface import Address
from tests.conformance.transport import CHECKS, Stage
from tests.sim.transport import Recorder, Simulation, address_of, start
from tests.transport.kit import Authority, QuicStage

SEED = int(os.environ.get("NODEDB_TEST_SEED", "1"))


class SimPlayer:
    def __init__(self, sim: Simulation, node_id: NodeId, generation: int) -> None:
        self.node_id = node_id
        self.handlers = Recorder()
        self.transport, self.links = start(sim, node_id, self.handlers, generation)
        self.handlers.transport = self.transport
        self.address: Address = address_of(node_id)


class SimStage:
    def __init__(self) -> None:
        self.sim = Simulation(SEED)
        self.players: list[SimPlayer] = []

    def start(self, node_id: NodeId, generation: int = 1) -> SimPlayer:
        player = SimPlayer(self.sim, node_id, generation)
        self.players.append(player)
        return player

    def crash(self, player: SimPlayer) -> None:
        player.links.crash()

    def drain(self, player: SimPlayer) -> None:
        player.links.call(lambda hub: hub.drain())
        self.run(lambda: player.transport.drained)
        player.links.crash()

    def run(self, until: Callable[[], bool], within_s: float = 10.0) -> None:
        self.sim.run(until, within_s)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_simulated(check: Callable[[Stage], None]) -> None:
    check(SimStage())


AUTHORITY = Authority()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_quic(check: Callable[[Stage], None]) -> None:
    stage = QuicStage(issuer=AUTHORITY)
    try:
        check(stage)
    finally:
        stage.close()
