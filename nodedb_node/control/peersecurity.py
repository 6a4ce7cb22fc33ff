"""Control's part in how peers know each other: makes and renews the node's credentials, warns where there are none.
World file: reads the clocks.

Invariant: with `[peers] security = "mtls"` a node that starts has a certificate that its peers accept; what keeps a
renewal from succeeding later is logged, counted and tried again ten seconds later, and the node goes on with what it
has. In insecure mode nothing is made, and every minute a warning says so. It never logs more of a certificate than its
names and dates.
"""

from __future__ import annotations

import time

from nodedb_node import log
from nodedb_node.admin.facts import PeerFacts
from nodedb_node.admin.loops import LoopMetrics
from nodedb_node.errors import Exit, StartError
from nodedb_node.ids import ClusterId, NodeId
from nodedb_node.metadata.security import ChangeRefused, SecurityStore
from nodedb_node.supervisor.boot import Boot
from nodedb_node.transport.credentials.authority import DAY_S
from nodedb_node.transport.credentials.files import CredentialFiles
from nodedb_node.transport.credentials.keeper import Keeper
from nodedb_node.transport.credentials.live import LiveCredentials
from nodedb_node.transport.credentials.trust import TrustError

WARNED_S = 60
RETRY_S = 10
INSECURE = "peers are NOT checked, so anybody can be one and read what it is told: [peers] security is insecure"


def wall_s() -> int:
    """Seconds since 1970: certificates are dated by it."""
    return time.time_ns() // 1_000_000_000


class PeerSecurity:
    """Of one control process."""

    def __init__(self, store: SecurityStore, boot: Boot, loop: LoopMetrics) -> None:
        self._store = store
        self._boot = boot
        self._loop = loop
        self._insecure = boot.config.peers.security == "insecure"
        self._files = CredentialFiles(boot.data_dir)
        self._keeper: Keeper | None = None
        self._written = LiveCredentials(self._files, wall_s)
        self._facts = PeerFacts(insecure=self._insecure)
        self._warned_s = 0
        self._warnings = 0
        self._failed_s = 0

    def open(self, now_s: int) -> PeerFacts:
        """Everything that peers will ask for; StartError when the node cannot have it."""
        if self._insecure:
            return self._warn(now_s)
        boot = self._boot
        days = boot.config.peers.certificate_days
        try:
            keeper = Keeper(self._store, self._files, ClusterId(boot.cluster_id), NodeId(boot.node_id), days * DAY_S)
            if keeper.custodian.found(now_s):
                log.info("the cluster's certificate authority was made", cluster=boot.cluster_id)
            self._keeper = keeper
            self._keep_up(now_s)
            keeper.publish(now_s)
            refusal = keeper.refusal(now_s)
        except (ChangeRefused, TrustError, OSError) as error:
            raise StartError(Exit.DATA, f"the node cannot have a certificate: {error}") from error
        if refusal:
            raise StartError(Exit.DATA, f"peers would refuse this node, {refusal}; the log says why it is not renewed")
        self._reload()
        return self._facts

    def tick(self, now_s: int) -> PeerFacts:
        """Every second."""
        if self._insecure:
            return self._warn(now_s)
        if not 0 <= now_s - self._failed_s < RETRY_S:
            self._keep_up(now_s)
        self._warn_of_stale(now_s)
        return self._facts

    def _keep_up(self, now_s: int) -> None:
        assert self._keeper is not None, "opened before"
        began = time.perf_counter()
        try:
            reason = self._keeper.tick(now_s)
            if reason:
                log.info("the node has a new certificate", why=reason)
            self._reload()
        except (ChangeRefused, TrustError, StartError, OSError) as error:
            self._failed_s = now_s
            self._loop.failed(error)
            log.error("the node's certificate is not kept up", why=error)
        self._loop.ran(time.perf_counter() - began)

    def _reload(self) -> None:
        """Take over what was written, as every process of the node does."""
        if not self._written.reload():
            return
        trusted = self._written.trust
        self._facts = PeerFacts(
            certificate_not_after_s=int(self._written.own().certificate.not_valid_after_utc.timestamp()),
            authority_not_after_s=max(found.not_after_s for found in trusted.authorities),
            list_next_update_s=min(found.revocations.next_update_s for found in trusted.authorities),
            authorities=len(trusted.authorities),
            trust_generation=trusted.generation,
        )

    def _warn(self, now_s: int) -> PeerFacts:
        if not 0 <= now_s - self._warned_s < WARNED_S:
            self._warned_s = now_s
            self._warnings += 1
            log.warning(INSECURE, warnings=self._warnings)
            self._facts = PeerFacts(insecure=True, insecure_warnings=self._warnings)
        return self._facts

    def _warn_of_stale(self, now_s: int) -> None:
        """A list past its time still counts (trust.py); what was revoked since is not on it."""
        late_s = now_s - self._facts.list_next_update_s
        if late_s > 0 and not 0 <= now_s - self._warned_s < WARNED_S:
            self._warned_s = now_s
            log.warning("a revocation list was not replaced in time: newer revocations are not known", late_s=late_s)
