"""One node's credentials from its first start on: makes them, renews them, and writes what its processes trust.

Invariant: after `open` and after every `tick` the node has a certificate that its own peers would accept, judged by the
function that they use, or the failure is told; every step may be cut by a crash and is taken up again by the next
call: the key that waits for a certificate is kept, and the same key gets the same certificate. Time is an argument.
"""

from __future__ import annotations

from nodedb_node.ids import ClusterId, NodeId
from nodedb_node.metadata.security import KeyRevoked, LeafRow, SecurityStore
from nodedb_node.transport.credentials.custodian import Custodian
from nodedb_node.transport.credentials.files import CredentialFiles
from nodedb_node.transport.credentials.reasons import Refusal
from nodedb_node.transport.credentials.schedule import renewal_due_s
from nodedb_node.transport.credentials.trust import Trust
from nodedb_node.transport.credentials.verify import Expected, PeerIdentity, verify_peer

RELOAD_S = 5  # every process of the node has read a new Trust by then: they look every second
LOOK_S = 60  # dates are looked at this often


class Keeper:
    """Of one node. All methods may raise ChangeRefused, StartError or TrustError: nothing was half done."""

    def __init__(
        self, store: SecurityStore, files: CredentialFiles, cluster_id: ClusterId, node_id: NodeId, leaf_s: int
    ) -> None:
        self._store = store
        self._files = files
        self._node_id = node_id
        files.make()
        with files.locked():
            sealing = files.sealing_key()
        self.custodian = Custodian(store, cluster_id, node_id, sealing, leaf_s)
        self._written = 0
        self._written_s = 0
        self._acknowledged = 0
        self._looked_s = 0

    def open(self, now_s: int) -> bool:
        """Everything that a node needs to talk to peers; True when its cluster's authority was made just now."""
        founded = self.custodian.found(now_s)
        self.tick(now_s)
        return founded

    def tick(self, now_s: int) -> str:
        """What time and other processes' changes ask for; why the certificate was renewed, or nothing. Cheap while
        nothing changed: for a loop to call every second."""
        if self._store.generation() == self._written and 0 <= now_s - self._looked_s < LOOK_S:
            self._acknowledge(now_s)
            return ""
        self._looked_s = now_s
        self._publish_changed(now_s)
        self.custodian.register()
        reason = self.renewal(now_s)
        if reason:
            self.renew(now_s)
            self._publish_changed(now_s)
        self.custodian.maintain(now_s)
        self._publish_changed(now_s)
        return reason

    def _publish_changed(self, now_s: int) -> None:
        if self._store.generation() != self._written:
            self.publish(now_s)

    def _acknowledge(self, now_s: int) -> None:
        """Once all processes have had the time to read what was written."""
        if self._acknowledged < self._written and now_s - self._written_s >= RELOAD_S:
            self._acknowledged = self._written
            self.custodian.acknowledge(self._written)

    def renewal(self, now_s: int) -> str:
        """Why the node's certificate must be made anew; nothing while it need not."""
        if self._files.certificate() is None:
            return "it had none"
        found = self._judged(now_s)
        if not isinstance(found, PeerIdentity):
            return f"peers would refuse it, {found}"
        row = self._store.read().leaves.get(f"{found.serial:x}")
        if row is None:
            return "it was not issued by this cluster's store"
        if now_s >= renewal_due_s(row.issued_s, row.not_after_s, row.serial):
            return "it is due"
        issuing = self._store.read().issuing()
        if issuing is not None and issuing.fingerprint != row.issuer:
            return "another authority issues now"
        return ""

    def refusal(self, now_s: int) -> str:
        """What peers would say to this node; nothing when they would let it in."""
        found = self._judged(now_s)
        return str(found) if isinstance(found, Refusal) else ""

    def _judged(self, now_s: int) -> PeerIdentity | Refusal:
        held = self._files.certificate()
        return verify_peer([held.der] if held else [], self.custodian.trust(), now_s, Expected(self._node_id))

    def renew(self, now_s: int) -> LeafRow:
        """Another key and certificate; peers accept both until the old one's pin is dropped."""
        with self._files.locked():
            key = self._files.next_key()
            try:
                row = self.custodian.issue(key.request(self._node_id[:16]), self._node_id, now_s)
            except KeyRevoked:
                self._files.drop_next_key()
                key = self._files.next_key()
                row = self.custodian.issue(key.request(self._node_id[:16]), self._node_id, now_s)
            self._files.install(row.certificate, key)
        return row

    def publish(self, now_s: int) -> Trust:
        """Write what the node's processes judge peers by."""
        trusted = self.custodian.trust()
        self._files.write_trust(trusted)
        self._written, self._written_s = trusted.generation, now_s
        return trusted
