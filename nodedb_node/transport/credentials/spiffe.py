"""The name of a node in a certificate: `spiffe://<cluster-id>/node/<node-id>`.

Invariant: a name has exactly one spelling, so that two names are equal when their bytes are: lower-case scheme, 32 and
40 lower-case hex digits, no percent-encoding, no port, user, query, fragment or trailing slash. What is spelled
otherwise is not a name of ours, whatever a URI library would make of it.
"""

import re

from msgspec import Struct

from nodedb_node.ids import ClusterId, NodeId

_NAME = re.compile(r"spiffe://([0-9a-f]{32})/node/([0-9a-f]{40})", re.ASCII)


class SpiffeId(Struct, frozen=True):
    """A node of a cluster."""

    cluster_id: ClusterId
    node_id: NodeId

    def __str__(self) -> str:
        return f"spiffe://{self.cluster_id}/node/{self.node_id}"


def parse(text: str) -> SpiffeId | None:
    """The node that a URI names; None when it is spelled in any other way than ours."""
    found = _NAME.fullmatch(text)
    return None if found is None else SpiffeId(ClusterId(found[1]), NodeId(found[2]))


def spell(cluster_id: str, node_id: str) -> SpiffeId:
    """The name of a node from its two ids; ValueError when they could not be read back."""
    found = parse(f"spiffe://{cluster_id}/node/{node_id}")
    if found is None:
        raise ValueError(f"cluster id {cluster_id!r} takes 32 and node id {node_id!r} 40 lower-case hex digits")
    return found
