"""What the cluster knows of its certificates, as rows, and the closed list of changes to them.

Invariant: `apply` is a pure, total function of state and change: it gives the next state, with a generation one
higher, or raises ChangeRefused and changes nothing. It reads no clock (changes carry their time), no key and no
certificate: rows are plain values, and what a certificate says was read before it was recorded. Generations only rise,
numbers of revocation lists only rise, a removed node never returns, and an authority leaves only when nobody uses it.

Who keeps the state is a SecurityStore: the catalog of one node (securitycatalog.py) now, the metadata group later; both
run these same changes, and tests/conformance/test_security_store.py judges both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

AUTHORITIES_MAX = 4  # two while one is rotated; more only when rotations were left unfinished
PINS_MAX = 4  # of one node: one, or two while it renews
NODES_MAX = 4096  # removed ones too: their tombstones stay
LEAVES_KEPT_S = 86_400  # an expired leaf is forgotten a day later
PIN_OVERLAP_S = 600  # connections made with the old key have this long to be made anew


class AuthorityRow(Struct, frozen=True, kw_only=True):
    """An authority: certificate and list are DER; `added` is the generation that brought it; `wrapped` holds its
    private key, by node id encrypted for that node alone, for each node that may sign."""

    fingerprint: bytes
    certificate: bytes
    crl: bytes
    crl_number: int
    wrapped: dict[str, bytes]
    added: int = 0

    def __repr__(self) -> str:
        return f"AuthorityRow({self.fingerprint.hex()[:16]}, list {self.crl_number}, key for {sorted(self.wrapped)})"


class LeafRow(Struct, frozen=True, kw_only=True):
    """A certificate issued to a node. `serial` is in hex; times are seconds since 1970; `revoked_s` is 0 or when.
    `recorded` is the generation that brought it: the order of a node's certificates, whatever its clock did."""

    serial: str
    issuer: bytes  # fingerprint
    node_id: str
    not_after_s: int
    issued_s: int
    spki_sha256: bytes
    certificate: bytes
    recorded: int = 0
    revoked_s: int = 0


class NodeRow(Struct, frozen=True, kw_only=True):
    """A node that was ever issued a certificate: the keys it may show, and the key that secrets are encrypted for."""

    node_id: str
    pins: tuple[bytes, ...] = ()
    sealing_key: bytes = b""  # X25519, public
    acknowledged: int = 0  # the generation that this node has told to use
    removed_s: int = 0


class SecurityState(Struct, frozen=True, kw_only=True):
    """Everything at one generation."""

    generation: int
    authorities: Mapping[bytes, AuthorityRow]  # by fingerprint
    leaves: Mapping[str, LeafRow]  # by serial
    nodes: Mapping[str, NodeRow]  # by node id

    def live_nodes(self) -> Iterator[NodeRow]:
        return (node for node in self.nodes.values() if not node.removed_s)

    def in_use(self, leaf: LeafRow, now_s: int) -> bool:
        """Whether a peer with this leaf would be let in."""
        node = self.nodes[leaf.node_id]
        return not leaf.revoked_s and leaf.not_after_s >= now_s and leaf.spki_sha256 in node.pins

    def issuing(self) -> AuthorityRow | None:
        """The newest authority that every node trusts by its own word; the oldest one when there is none such. A leaf
        of an authority that one node does not know yet would be refused by that node."""
        rows = sorted(self.authorities.values(), key=lambda row: row.added)
        known = [row for row in rows if all(node.acknowledged >= row.added for node in self.live_nodes())]
        if known:
            return known[-1]
        return rows[0] if rows else None

    def unaware(self, row: AuthorityRow) -> list[str]:
        """Ids of nodes that have not told that they trust this authority."""
        return sorted(node.node_id for node in self.live_nodes() if node.acknowledged < row.added)

    def users(self, fingerprint: bytes, now_s: int) -> list[LeafRow]:
        """Leaves of an authority that their nodes show, or showed a moment ago."""
        shown = [leaf for node in self.live_nodes() for leaf in self.shown(node, now_s)]
        return [leaf for leaf in shown if leaf.issuer == fingerprint]

    def shown(self, node: NodeRow, now_s: int) -> list[LeafRow]:
        """A node's newest leaf, and those that it replaced less than `PIN_OVERLAP_S` ago."""
        good = [leaf for leaf in self.leaves.values() if leaf.node_id == node.node_id and self.in_use(leaf, now_s)]
        newest = max(good, key=lambda leaf: leaf.recorded, default=None)
        if newest is None or newest.issued_s + PIN_OVERLAP_S >= now_s:
            return good
        return [newest]


EMPTY = SecurityState(
    generation=0, authorities=MappingProxyType({}), leaves=MappingProxyType({}), nodes=MappingProxyType({})
)


class ChangeRefused(Exception):
    """A change that the state does not allow; one line that says what to do. Nothing was changed."""


class Conflict(ChangeRefused):
    """The state moved on since it was read: read it again and decide anew."""

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(f"the certificates changed meanwhile (generation {found}, not {expected}); try again")


class KeyRevoked(ChangeRefused):
    """A certificate of this key was revoked: the key is not trusted again, make another one."""

    def __init__(self) -> None:
        super().__init__("a certificate of this key was revoked: make another key")


class AddAuthority(Struct, frozen=True, tag=True):
    """Trust another authority; `row.added` is filled in."""

    row: AuthorityRow


class RetireAuthority(Struct, frozen=True, tag=True):
    """Trust an authority no longer, with all its leaves."""

    fingerprint: bytes
    now_s: int


class RecordLeaf(Struct, frozen=True, tag=True):
    """A leaf was made: pin its key, know its node; `row.recorded` is filled in."""

    row: LeafRow


class Revoke(Struct, frozen=True, tag=True):
    """A leaf is good no more; its authority's list says so."""

    serial: str
    crl: bytes
    crl_number: int
    now_s: int


class ReplaceList(Struct, frozen=True, tag=True):
    """A newer revocation list, because time passed."""

    fingerprint: bytes
    crl: bytes
    crl_number: int


class DropPin(Struct, frozen=True, tag=True):
    """A key that a node may no longer show."""

    node_id: str
    spki_sha256: bytes


class RemoveNode(Struct, frozen=True, tag=True):
    """A node is out for good."""

    node_id: str
    now_s: int


class Acknowledge(Struct, frozen=True, tag=True):
    """A node uses this generation."""

    node_id: str
    generation: int


class RegisterSealingKey(Struct, frozen=True, tag=True):
    """The public key that secrets for this node are encrypted for."""

    node_id: str
    public: bytes


class Rewrap(Struct, frozen=True, tag=True):
    """An authority's private key, encrypted for another set of nodes."""

    fingerprint: bytes
    wrapped: dict[str, bytes]


class Tidy(Struct, frozen=True, tag=True):
    """Forget leaves that are long over, and pins of keys that were replaced `PIN_OVERLAP_S` ago."""

    now_s: int


Change = (
    AddAuthority
    | RetireAuthority
    | RecordLeaf
    | Revoke
    | ReplaceList
    | DropPin
    | RemoveNode
    | Acknowledge
    | RegisterSealingKey
    | Rewrap
    | Tidy
)


class SecurityStore(Protocol):
    """Who keeps the state. Every change is durable when `change` returns."""

    def read(self) -> SecurityState:
        """The state now; EMPTY when nothing was ever recorded."""

    def generation(self) -> int:
        """Of the state now: cheap, to ask often whether something changed."""

    def change(self, expected: int, changes: Sequence[Change]) -> SecurityState:
        """All of them or none, if the generation is the expected one: Conflict when not, ChangeRefused when one of
        them is not allowed. Returns the new state."""


def apply_all(state: SecurityState, expected: int, changes: Sequence[Change]) -> SecurityState:
    """What every store does with `change`."""
    if state.generation != expected:
        raise Conflict(expected, state.generation)
    for change in changes:
        state = apply(state, change)
    return state


def apply(state: SecurityState, change: Change) -> SecurityState:
    """The next state."""
    following = _HANDLERS[type(change)](state, change)
    return replace(following, generation=state.generation + 1)


def _add_authority(state: SecurityState, change: AddAuthority) -> SecurityState:
    row = replace(change.row, added=state.generation + 1)
    if row.fingerprint in state.authorities:
        raise ChangeRefused("this authority is trusted already")
    if len(state.authorities) >= AUTHORITIES_MAX:
        raise ChangeRefused(f"{AUTHORITIES_MAX} authorities are trusted already: finish a rotation first")
    _check_holders(state, row.wrapped)
    return _with_authority(state, row)


def _retire_authority(state: SecurityState, change: RetireAuthority) -> SecurityState:
    _authority(state, change.fingerprint)
    if len(state.authorities) == 1:
        raise ChangeRefused("the only authority is not retired: begin a rotation first")
    issuing = state.issuing()
    if issuing is not None and issuing.fingerprint == change.fingerprint:
        raise ChangeRefused("this authority still issues: not every node trusts the next one yet")
    users = state.users(change.fingerprint, change.now_s)
    if users:
        nodes = ", ".join(sorted({leaf.node_id[:12] for leaf in users})[:8])
        minutes = PIN_OVERLAP_S // 60
        raise ChangeRefused(
            f"{len(users)} certificates of this authority are in use, or were in the last {minutes} minutes "
            f"(nodes {nodes}): nodes renew by themselves, see nodedb-node cert show; then try again"
        )
    left = {key: row for key, row in state.authorities.items() if key != change.fingerprint}
    leaves = {serial: leaf for serial, leaf in state.leaves.items() if leaf.issuer != change.fingerprint}
    return replace(state, authorities=left, leaves=leaves)


def _record_leaf(state: SecurityState, change: RecordLeaf) -> SecurityState:
    row = replace(change.row, recorded=state.generation + 1)
    _authority(state, row.issuer)
    node = state.nodes.get(row.node_id) or _new_node(state, row.node_id)
    if node.removed_s:
        raise ChangeRefused(f"node {row.node_id} was removed: a node that returns gets another identity")
    if row.serial in state.leaves:
        raise ChangeRefused(f"serial {row.serial} was issued already")
    if row.node_id not in state.nodes and len(state.nodes) >= NODES_MAX:
        raise ChangeRefused(f"{NODES_MAX} nodes are known already")
    if any(other.pins.count(row.spki_sha256) for other in state.nodes.values() if other.node_id != row.node_id):
        raise ChangeRefused("this key is another node's: every node makes its own")
    if any(leaf.revoked_s and leaf.spki_sha256 == row.spki_sha256 for leaf in state.leaves.values()):
        raise KeyRevoked
    pins = node.pins if row.spki_sha256 in node.pins else (*node.pins, row.spki_sha256)
    if len(pins) > PINS_MAX:
        raise ChangeRefused(f"node {row.node_id} has {PINS_MAX} keys already: drop one first (nodedb-node cert pins)")
    state = _with_node(state, replace(node, pins=pins))
    return replace(state, leaves={**state.leaves, row.serial: row})


def _revoke(state: SecurityState, change: Revoke) -> SecurityState:
    leaf = state.leaves.get(change.serial)
    if leaf is None:
        raise ChangeRefused(f"no certificate with serial {change.serial} is known; nodedb-node cert pins shows all")
    if leaf.revoked_s:
        raise ChangeRefused(f"the certificate with serial {change.serial} is revoked already")
    state = _with_list(state, leaf.issuer, change.crl, change.crl_number)
    leaves = {**state.leaves, leaf.serial: replace(leaf, revoked_s=change.now_s)}
    state = replace(state, leaves=leaves)
    others = [other for other in leaves.values() if other.spki_sha256 == leaf.spki_sha256 and not other.revoked_s]
    return state if others else _without_pin(state, leaf.node_id, leaf.spki_sha256)


def _replace_list(state: SecurityState, change: ReplaceList) -> SecurityState:
    return _with_list(state, change.fingerprint, change.crl, change.crl_number)


def _drop_pin(state: SecurityState, change: DropPin) -> SecurityState:
    if change.spki_sha256 not in _node(state, change.node_id).pins:
        raise ChangeRefused(f"node {change.node_id} has no such pin")
    return _without_pin(state, change.node_id, change.spki_sha256)


def _remove_node(state: SecurityState, change: RemoveNode) -> SecurityState:
    node = _node(state, change.node_id)
    state = _with_node(state, replace(node, pins=(), removed_s=change.now_s))
    for row in state.authorities.values():
        left = {node_id: key for node_id, key in row.wrapped.items() if node_id != change.node_id}
        if not left:
            raise ChangeRefused("this node alone holds an authority's key: wrap it for another node first")
        state = _with_authority(state, replace(row, wrapped=left))
    return state


def _acknowledge(state: SecurityState, change: Acknowledge) -> SecurityState:
    node = _node(state, change.node_id)
    if not node.acknowledged <= change.generation <= state.generation:
        raise ChangeRefused(f"generation {change.generation} is not one that node {change.node_id} can have reached")
    return _with_node(state, replace(node, acknowledged=change.generation))


def _register(state: SecurityState, change: RegisterSealingKey) -> SecurityState:
    if len(change.public) != 32:
        raise ChangeRefused("a sealing key has 32 bytes")
    node = state.nodes.get(change.node_id) or _new_node(state, change.node_id)
    if node.removed_s:
        raise ChangeRefused(f"node {change.node_id} was removed")
    return _with_node(state, replace(node, sealing_key=change.public))


def _rewrap(state: SecurityState, change: Rewrap) -> SecurityState:
    row = _authority(state, change.fingerprint)
    _check_holders(state, change.wrapped)
    return _with_authority(state, replace(row, wrapped=change.wrapped))


def _tidy(state: SecurityState, change: Tidy) -> SecurityState:
    kept = {key: leaf for key, leaf in state.leaves.items() if leaf.not_after_s + LEAVES_KEPT_S >= change.now_s}
    state = replace(state, leaves=kept)
    for node in list(state.live_nodes()):
        state = _with_node(state, replace(node, pins=_pins_kept(state, node, change.now_s)))
    return state


def _pins_kept(state: SecurityState, node: NodeRow, now_s: int) -> tuple[bytes, ...]:
    """Of the leaves that the node shows; all of them while it shows none."""
    keys = {leaf.spki_sha256 for leaf in state.shown(node, now_s)}
    return tuple(pin for pin in node.pins if pin in keys) if keys else node.pins


def _check_holders(state: SecurityState, wrapped: Mapping[str, bytes]) -> None:
    if not wrapped:
        raise ChangeRefused("an authority's key that nobody holds is lost")
    for node_id in wrapped:
        if not _node(state, node_id).sealing_key or state.nodes[node_id].removed_s:
            raise ChangeRefused(f"node {node_id} has no sealing key, or was removed")


def _new_node(state: SecurityState, node_id: str) -> NodeRow:
    """Who joins is handed the trust of now: it does not hold up a rotation, nor turn it back."""
    return NodeRow(node_id=node_id, acknowledged=state.generation)


def _authority(state: SecurityState, fingerprint: bytes) -> AuthorityRow:
    row = state.authorities.get(fingerprint)
    if row is None:
        raise ChangeRefused(f"no authority {fingerprint.hex()[:16]} is trusted")
    return row


def _node(state: SecurityState, node_id: str) -> NodeRow:
    node = state.nodes.get(node_id)
    if node is None:
        raise ChangeRefused(f"no node {node_id} is known; nodedb-node cert pins shows whole ids")
    return node


def _with_list(state: SecurityState, fingerprint: bytes, crl: bytes, number: int) -> SecurityState:
    row = _authority(state, fingerprint)
    if number <= row.crl_number:
        raise ChangeRefused(f"list {number} is not newer than list {row.crl_number}")
    return _with_authority(state, replace(row, crl=crl, crl_number=number))


def _with_authority(state: SecurityState, row: AuthorityRow) -> SecurityState:
    return replace(state, authorities={**state.authorities, row.fingerprint: row})


def _with_node(state: SecurityState, node: NodeRow) -> SecurityState:
    return replace(state, nodes={**state.nodes, node.node_id: node})


def _without_pin(state: SecurityState, node_id: str, pin: bytes) -> SecurityState:
    node = _node(state, node_id)
    return _with_node(state, replace(node, pins=tuple(other for other in node.pins if other != pin)))


_HANDLERS: dict[type[Any], Callable[[SecurityState, Any], SecurityState]] = {
    AddAuthority: _add_authority,
    RetireAuthority: _retire_authority,
    RecordLeaf: _record_leaf,
    Revoke: _revoke,
    ReplaceList: _replace_list,
    DropPin: _drop_pin,
    RemoveNode: _remove_node,
    Acknowledge: _acknowledge,
    RegisterSealingKey: _register,
    Rewrap: _rewrap,
    Tidy: _tidy,
}
