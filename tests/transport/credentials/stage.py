"""Nodes of one cluster on one store, in memory or on disk, with a clock that tests turn."""

from collections.abc import Sequence
from pathlib import Path

from nodedb_node.ids import NodeId
from nodedb_node.metadata.catalog import Catalog
from nodedb_node.metadata.security import EMPTY, Change, SecurityState, SecurityStore, apply_all
from nodedb_node.transport.credentials.authority import DAY_S
from nodedb_node.transport.credentials.files import CredentialFiles
from nodedb_node.transport.credentials.keeper import Keeper
from nodedb_node.transport.credentials.reasons import Refusal
from nodedb_node.transport.credentials.verify import Expected, PeerIdentity, verify_peer
from tests.transport.credentials.kit import CLUSTER, NODE, NOW_S

LEAF_S = 30 * DAY_S


class Cut(BaseException):
    """The power went."""


class MemoryStore:
    """A SecurityStore that may lose its power before or after a change."""

    def __init__(self) -> None:
        self.state = EMPTY
        self.steps = Steps()

    def read(self) -> SecurityState:
        return self.state

    def generation(self) -> int:
        return self.state.generation

    def change(self, expected: int, changes: Sequence[Change]) -> SecurityState:
        self.steps.step()
        self.state = apply_all(self.state, expected, changes)
        self.steps.step()
        return self.state


class Steps:
    """Counts places where a crash may happen, and crashes at one of them."""

    def __init__(self) -> None:
        self.done = 0
        self.cut_at: int | None = None

    def step(self) -> None:
        self.done += 1
        if self.done == self.cut_at:
            raise Cut


def keeper(store: SecurityStore, directory: Path, node: NodeId = NODE) -> Keeper:
    directory.mkdir(exist_ok=True)
    return Keeper(store, CredentialFiles(str(directory)), CLUSTER, node, LEAF_S)


def shown(directory: Path) -> bytes:
    """The certificate that the node of a directory shows."""
    held = CredentialFiles(str(directory)).certificate()
    assert held is not None
    assert held.key.spki_sha256
    return held.der


def judged(judge: Path, chain: Sequence[bytes], now_s: int = NOW_S, node: NodeId = NODE) -> PeerIdentity | Refusal:
    """What the processes of the judging node make of a chain, by the trust that they were given."""
    trusted = CredentialFiles(str(judge)).trust()
    assert trusted is not None
    return verify_peer(chain, trusted, now_s, Expected(node))


def on_disk(path: Path) -> Catalog:
    return Catalog.open(path / "catalog")
