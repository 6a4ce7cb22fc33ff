"""Whether a peer is let in: one function, for both directions, before any byte of a stream is interpreted.

Invariant: a pure function of what the peer showed, what we trust, the time and whom we expect; it never raises on a
peer's bytes and lets in nobody by default: whatever is not known is refused. The chain must be one leaf, alone or with
the authority's own certificate, that one of our authorities signed; its name must be of this cluster and of the node
expected; the node must be a member and not removed; and its key must be one that was issued to it. Every peer is
judged again when the Trust changes (live.py), and by date when its certificate ends (`PeerIdentity.until_s`).

It deliberately knows no lanes, hellos or epochs: a node that is not a member yet (one that our membership does not
know, with a valid certificate and no tombstone) is told apart by `known`, and let in only when asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from msgspec import Struct

from nodedb_node.ids import NodeId
from nodedb_node.transport.credentials import spiffe
from nodedb_node.transport.credentials.certificate import Leaf, parse_leaf
from nodedb_node.transport.credentials.reasons import Reason, Refusal
from nodedb_node.transport.credentials.spiffe import SpiffeId
from nodedb_node.transport.credentials.trust import Authority, Trust


class Expected(Struct, frozen=True):
    """Whom we expect. `node_id` is the one we dialled, or None where we were dialled and the peer says who it is.
    `unknown` lets in a node that membership does not know, for metadata catch-up only."""

    node_id: NodeId | None = None
    unknown: bool = False


ANYONE = Expected()


class PeerIdentity(Struct, frozen=True, kw_only=True):
    """Who the peer is. `known` is False only where Expected.unknown allowed it; `until_s` is when it must be closed."""

    name: SpiffeId
    serial: int
    spki_sha256: bytes
    authority: bytes  # fingerprint
    until_s: int
    known: bool
    generation: int  # of the Trust it was judged by

    @property
    def node_id(self) -> NodeId:
        return self.name.node_id


def verify_peer(
    chain_der: Sequence[bytes], trust: Trust, now_s: int, expected: Expected = ANYONE
) -> PeerIdentity | Refusal:
    """`chain_der`: what the peer sent, leaf first, each DER; `now_s`: seconds since 1970."""
    if not chain_der:
        return Refusal(Reason.NO_CERTIFICATE, "the peer showed no certificate")
    leaf = parse_leaf(chain_der[0])
    if isinstance(leaf, Refusal):
        return leaf
    issuer = _issuer(leaf, trust)
    if isinstance(issuer, Refusal):
        return issuer
    if len(chain_der) > 2 or (len(chain_der) == 2 and chain_der[1] != issuer.der):
        return Refusal(Reason.WRONG_CHAIN, "certificates beside the leaf that are not its authority's")
    refusal = _dates(leaf, issuer, now_s)
    if refusal is not None:
        return refusal
    if leaf.serial in issuer.revocations.serials:
        return Refusal(Reason.REVOKED, f"serial {leaf.serial:x} is on list {issuer.revocations.number}")
    name = spiffe.parse(leaf.uri)
    if name is None:
        return Refusal(Reason.MALFORMED_NAME, f"{leaf.uri[:120]!r} does not spell spiffe://CLUSTER/node/NODE")
    return _member(name, leaf, trust, expected) or PeerIdentity(
        name=name,
        serial=leaf.serial,
        spki_sha256=leaf.spki_sha256,
        authority=issuer.fingerprint,
        until_s=min(leaf.not_after_s, issuer.not_after_s),
        known=name.node_id in trust.membership.pins,
        generation=trust.generation,
    )


def _issuer(leaf: Leaf, trust: Trust) -> Authority | Refusal:
    """The authority that really signed it; a name costs nothing to claim."""
    named = [authority for authority in trust.authorities if authority.subject == leaf.issuer]
    for authority in named:
        try:
            leaf.certificate.verify_directly_issued_by(authority.certificate)
        except (InvalidSignature, ValueError, TypeError):
            continue
        return authority
    return Refusal(Reason.OTHER_AUTHORITY, "its signature is not our authority's" if named else "not of our authority")


def _dates(leaf: Leaf, issuer: Authority, now_s: int) -> Refusal | None:
    if now_s < leaf.not_before_s:
        return Refusal(Reason.NOT_YET_VALID, f"valid in {leaf.not_before_s - now_s} s; do the clocks agree?")
    if now_s > leaf.not_after_s:
        return Refusal(Reason.EXPIRED, f"expired {now_s - leaf.not_after_s} s ago")
    if now_s < issuer.not_before_s:
        return Refusal(Reason.NOT_YET_VALID, f"its authority is valid in {issuer.not_before_s - now_s} s")
    if now_s > issuer.not_after_s:
        return Refusal(Reason.EXPIRED, f"its authority expired {now_s - issuer.not_after_s} s ago")
    return None


def _member(name: SpiffeId, leaf: Leaf, trust: Trust, expected: Expected) -> Refusal | None:
    """Whether this node, with this key, is one that we want to talk to."""
    if name.cluster_id != trust.cluster_id:
        return Refusal(Reason.OTHER_CLUSTER, f"it is of cluster {name.cluster_id}")
    if name.node_id in trust.membership.removed:
        return Refusal(Reason.REMOVED_NODE, f"node {name.node_id} was removed from the cluster")
    if expected.node_id is not None and name.node_id != expected.node_id:
        return Refusal(Reason.OTHER_NODE, f"it is node {name.node_id}, dialled was {expected.node_id}")
    pins = trust.membership.pins.get(name.node_id)
    if pins is None:
        return None if expected.unknown else Refusal(Reason.UNKNOWN_NODE, f"node {name.node_id} is not a member")
    if leaf.spki_sha256 not in pins:
        return Refusal(Reason.PIN_MISMATCH, f"the key is not one that node {name.node_id} was issued")
    return None
