"""The keeper of a cluster's authority: issues, revokes, rotates, as changes to a SecurityStore.

Invariant: every act is one change of the store, so a crash leaves it done or not begun, and repeating it is safe: the
same key gets the same certificate. A private key of an authority exists in memory only while it signs, and is stored
only sealed for the nodes that may sign. Trust comes before use: a new authority issues only when every node has told
that it trusts it, and an old one is retired only when no certificate of it is in use. Times are arguments.

It deliberately decides nothing about who may join: whoever calls `issue` has decided that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cryptography import x509

from nodedb_node.ids import ClusterId, NodeId
from nodedb_node.metadata.security import (
    Acknowledge,
    AddAuthority,
    AuthorityRow,
    Change,
    ChangeRefused,
    Conflict,
    DropPin,
    LeafRow,
    RecordLeaf,
    RegisterSealingKey,
    RemoveNode,
    ReplaceList,
    RetireAuthority,
    Revoke,
    Rewrap,
    SecurityState,
    SecurityStore,
    Tidy,
    apply_all,
)
from nodedb_node.transport.credentials import authority, spiffe, trust
from nodedb_node.transport.credentials.authority import Signer, SigningKey
from nodedb_node.transport.credentials.certificate import Leaf, fingerprint, parse_leaf, spki_sha256
from nodedb_node.transport.credentials.schedule import list_due_s, renewal_due_s
from nodedb_node.transport.credentials.sealing import SealError, SealingKey, authority_purpose, seal
from nodedb_node.transport.credentials.trust import Membership, Trust

ATTEMPTS = 64  # of a change that other processes overtake: each time one of them got further
CLOCK_FLOOR_S = 1_735_689_600  # 2025: what is dated before was dated by a clock that nobody had set
LEAF_S_MIN = 3_600

Decision = Callable[[SecurityState], Sequence[Change]]


class Custodian:
    """Of one cluster, on one node; `sealing` opens what is sealed for that node."""

    def __init__(
        self, store: SecurityStore, cluster_id: ClusterId, node_id: NodeId, sealing: SealingKey, leaf_s: int
    ) -> None:
        self._store = store
        self._cluster_id = cluster_id
        self._node_id = node_id
        self._sealing = sealing
        self._leaf_s = leaf_s

    def found(self, now_s: int) -> bool:
        """Make the cluster's first authority, and this node its only keeper; False when there is one already."""
        before = self._store.read().generation
        return self._decide(lambda state: [] if state.authorities else self._founding(now_s)).generation != before

    def register(self) -> None:
        """Tell the node's sealing key, where it is another than before: what is sealed from now on can be opened."""
        public = self._sealing.public

        def decide(state: SecurityState) -> Sequence[Change]:
            node = state.nodes.get(self._node_id)
            if node is None or node.sealing_key == public:
                return []
            return [RegisterSealingKey(self._node_id, public)]

        self._decide(decide)

    def issue(self, request_der: bytes, node_id: NodeId, now_s: int) -> LeafRow:
        """A certificate for the key of a signing request; RequestError when the request is refused. The same key gets
        the certificate that it has, while that is neither due nor of an authority that no longer issues."""
        key = authority.requested_key(request_der)
        spki, name = spki_sha256(key), spiffe.spell(self._cluster_id, node_id)

        def decide(state: SecurityState) -> Sequence[Change]:
            if self._held(state, node_id, spki, now_s) is not None:
                return []
            issuer = state.issuing()
            if issuer is None:
                raise ChangeRefused("there is no authority yet: nodedb-node cert init")
            signer = self._signer(issuer)
            _check_dates(signer, now_s)
            der = authority.issue(signer, key, name, now_s, self._leaf_s)
            return [Tidy(now_s), RecordLeaf(leaf_row(der, issuer.fingerprint, node_id, now_s))]

        after = self._decide(decide)
        mine = [leaf for leaf in after.leaves.values() if (leaf.node_id, leaf.spki_sha256) == (node_id, spki)]
        return max((leaf for leaf in mine if after.in_use(leaf, now_s)), key=lambda leaf: leaf.recorded)

    def revoke(self, serial: str, now_s: int) -> None:
        """Put a certificate on its authority's list, and drop the pin of its key."""

        def decide(state: SecurityState) -> Sequence[Change]:
            leaf = state.leaves.get(serial)
            if leaf is None:
                raise ChangeRefused(f"no certificate with serial {serial} is known; nodedb-node cert pins shows all")
            row = state.authorities[leaf.issuer]
            number, crl = self._list(state, row, now_s, more=[(int(serial, 16), now_s)])
            return [Revoke(serial, crl, number, now_s)]

        self._decide(decide)

    def remove(self, node_id: NodeId, now_s: int) -> None:
        """Take a node out of the cluster for good."""
        if node_id == self._node_id:
            raise ChangeRefused("a node does not remove itself: ask another one")
        self._decide(lambda _: [RemoveNode(node_id, now_s)])

    def drop_pin(self, node_id: NodeId, pin: bytes) -> None:
        """Let a node no longer show a key."""
        self._decide(lambda _: [DropPin(node_id, pin)])

    def begin_rotation(self, now_s: int) -> AuthorityRow:
        """Trust a new authority; it issues once every node has told that it trusts it."""

        def decide(state: SecurityState) -> Sequence[Change]:
            if len(state.authorities) > 1:
                raise ChangeRefused("a rotation has begun already: nodedb-node cert rotate-ca finish ends it")
            return [AddAuthority(self._new_authority(now_s, _keepers(state)))]

        state = self._decide(decide)
        return max(state.authorities.values(), key=lambda row: row.added)

    def finish_rotation(self, now_s: int) -> int:
        """Retire every authority but the newest; ChangeRefused while one of them is used. How many were retired."""

        def decide(state: SecurityState) -> Sequence[Change]:
            newest = max(state.authorities.values(), key=lambda row: row.added, default=None)
            old = [key for key in state.authorities if newest is None or key != newest.fingerprint]
            if not old:
                raise ChangeRefused("no rotation has begun: nodedb-node cert rotate-ca begin")
            return [Tidy(now_s), *(RetireAuthority(key, now_s) for key in old)]

        before = len(self._store.read().authorities)
        return before - len(self._decide(decide).authorities)

    def rewrap(self, keepers: Sequence[NodeId]) -> None:
        """Seal the authorities' keys for these nodes and no others: the voters of the metadata group."""

        def decide(state: SecurityState) -> Sequence[Change]:
            keyless = [node for node in keepers if node not in state.nodes or not state.nodes[node].sealing_key]
            if keyless:
                raise ChangeRefused(f"node {keyless[0]} has no sealing key: it did not join yet")
            publics: dict[str, bytes] = {node: state.nodes[node].sealing_key for node in keepers}
            rows = state.authorities.values()
            return [
                Rewrap(row.fingerprint, self._sealed(self._signer(row).key, row.fingerprint, publics)) for row in rows
            ]

        self._decide(decide)

    def maintain(self, now_s: int) -> None:
        """What time asks for: newer revocation lists, and to forget what is over."""

        def decide(state: SecurityState) -> Sequence[Change]:
            changes: list[Change] = []
            for row in state.authorities.values():
                if self._node_id not in row.wrapped:
                    continue  # another node makes its lists
                issuer = x509.load_der_x509_certificate(row.certificate)
                if now_s >= list_due_s(trust.revocations(issuer, row.crl).next_update_s):
                    number, crl = self._list(state, row, now_s)
                    changes.append(ReplaceList(row.fingerprint, crl, number))
            tidied = apply_all(state, state.generation, [Tidy(now_s)])
            if (tidied.leaves, tidied.nodes) != (state.leaves, state.nodes):
                changes.append(Tidy(now_s))
            return changes

        self._decide(decide)

    def acknowledge(self, generation: int) -> None:
        """Tell that this node, all its processes, uses this generation; only where an authority waits for it."""

        def decide(state: SecurityState) -> Sequence[Change]:
            node = state.nodes.get(self._node_id)
            newest = max((row.added for row in state.authorities.values()), default=0)
            if node is None or node.acknowledged >= newest or generation < newest:
                return []
            return [Acknowledge(self._node_id, generation)]

        self._decide(decide)

    def trust(self) -> Trust:
        """What the state says to trust."""
        return trust_of(self._cluster_id, self._store.read())

    # ---- how ----

    def _decide(self, decide: Decision) -> SecurityState:
        """Read, decide, change; again when another process was faster."""
        for _ in range(ATTEMPTS):
            state = self._store.read()
            changes = decide(state)
            if not changes:
                return state
            try:
                return self._store.change(state.generation, changes)
            except Conflict:
                continue
        raise ChangeRefused(f"the certificates were changed by others {ATTEMPTS} times in a row; try again")

    def _founding(self, now_s: int) -> Sequence[Change]:
        public = self._sealing.public
        row = self._new_authority(now_s, {self._node_id: public})
        return [RegisterSealingKey(self._node_id, public), AddAuthority(row)]

    def _new_authority(self, now_s: int, keepers: dict[str, bytes]) -> AuthorityRow:
        if now_s < CLOCK_FLOOR_S:
            raise ChangeRefused(
                f"the clock says {authority.time_of(now_s):%Y-%m-%d}: set it before keys are made by it"
            )
        signer = authority.make_authority(self._cluster_id, SigningKey.make(), now_s)
        mark = fingerprint(signer.der)
        return AuthorityRow(
            fingerprint=mark,
            certificate=signer.der,
            crl=authority.make_list(signer, 1, [], now_s),
            crl_number=1,
            wrapped=self._sealed(signer.key, mark, keepers),
        )

    def _sealed(self, key: SigningKey, mark: bytes, publics: dict[str, bytes]) -> dict[str, bytes]:
        purposes = {node_id: authority_purpose(self._cluster_id, mark, node_id) for node_id in publics}
        return {node_id: seal(key.der(), public, purposes[node_id]) for node_id, public in publics.items()}

    def _signer(self, row: AuthorityRow) -> Signer:
        """The authority with its key, for as long as the caller holds it."""
        sealed = row.wrapped.get(self._node_id)
        if sealed is None:
            raise ChangeRefused("this node does not hold the authority's key: ask one that votes on metadata")
        try:
            der = self._sealing.open(sealed, authority_purpose(self._cluster_id, row.fingerprint, self._node_id))
        except SealError as error:
            line = "the authority's key cannot be opened with tls/sealing.key: restore that file from a backup"
            raise ChangeRefused(line) from error
        return Signer(x509.load_der_x509_certificate(row.certificate), SigningKey.load(der))

    def _list(
        self, state: SecurityState, row: AuthorityRow, now_s: int, more: Sequence[tuple[int, int]] = ()
    ) -> tuple[int, bytes]:
        """The next revocation list of an authority: its number and the list."""
        revoked = [
            (int(leaf.serial, 16), leaf.revoked_s)
            for leaf in state.leaves.values()
            if leaf.issuer == row.fingerprint and leaf.revoked_s
        ]
        number = row.crl_number + 1
        return number, authority.make_list(self._signer(row), number, [*revoked, *more], now_s)

    def _held(self, state: SecurityState, node_id: str, spki: bytes, now_s: int) -> LeafRow | None:
        """The certificate that a key has, if it need not be made anew."""
        issuer = state.issuing()
        for leaf in state.leaves.values():
            if (leaf.node_id, leaf.spki_sha256) == (node_id, spki) and state.in_use(leaf, now_s):
                fresh = now_s < renewal_due_s(leaf.issued_s, leaf.not_after_s, leaf.serial)
                if fresh and issuer is not None and leaf.issuer == issuer.fingerprint:
                    return leaf
        return None


def _keepers(state: SecurityState) -> dict[str, bytes]:
    """Sealing keys of the nodes that hold the authorities' keys now."""
    holders = {node_id for row in state.authorities.values() for node_id in row.wrapped}
    if not holders:
        raise ChangeRefused("there is no authority yet: nodedb-node cert init")
    return {node_id: state.nodes[node_id].sealing_key for node_id in holders}


def _check_dates(signer: Signer, now_s: int) -> None:
    """That a leaf of this authority would be good for a while."""
    begins_s = int(signer.certificate.not_valid_before_utc.timestamp())
    ends_s = int(signer.certificate.not_valid_after_utc.timestamp())
    if not begins_s <= now_s <= ends_s - LEAF_S_MIN:
        dates = f"{authority.time_of(begins_s):%Y-%m-%d} to {authority.time_of(ends_s):%Y-%m-%d}"
        line = f"the authority is good from {dates} only: set the clock, or nodedb-node cert rotate-ca begin"
        raise ChangeRefused(line)


def leaf_row(der: bytes, issuer: bytes, node_id: str, now_s: int) -> LeafRow:
    """The row of a certificate that was just made."""
    leaf = parse_leaf(der)
    assert isinstance(leaf, Leaf), f"a certificate of ours is refused: {leaf}"
    return LeafRow(
        serial=f"{leaf.serial:x}",
        issuer=issuer,
        node_id=node_id,
        not_after_s=leaf.not_after_s,
        issued_s=now_s,
        spki_sha256=leaf.spki_sha256,
        certificate=der,
    )


def trust_of(cluster_id: ClusterId, state: SecurityState) -> Trust:
    """A state as peers are judged by it; TrustError while there is no authority."""
    rows = sorted(state.authorities.values(), key=lambda row: row.added)
    pins = {NodeId(node.node_id): frozenset(node.pins) for node in state.live_nodes()}
    removed = frozenset(NodeId(node.node_id) for node in state.nodes.values() if node.removed_s)
    pairs = [(row.certificate, row.crl) for row in rows]
    return trust.trust(cluster_id, state.generation, pairs, Membership(pins, removed))
