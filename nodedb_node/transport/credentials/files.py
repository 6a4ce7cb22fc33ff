"""The files of a node's credentials, in `tls` of its data directory. World file.

    sealing.key   the key that secrets are sealed for; lost with it: the authority's key, if no other node holds that
    node.pem      the node's certificate and its key, one file, so that its rename switches both
    next.key      the key of a certificate that is being asked for; a crash goes on with it
    trust         what every process of the node judges peers by, written by control

Invariant: each is replaced by write, fsync, rename, fsync of the directory, and readable by its owner alone; a
directory or file that others can read is refused. The directory is locked while keys are changed. Nothing here is
ever logged.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from msgspec import Struct

from nodedb_node.errors import UNREADABLE, Exit, StartError
from nodedb_node.ids import ClusterId, NodeId
from nodedb_node.supervisor.datadir import replace_file, sync_dir
from nodedb_node.transport.credentials import trust
from nodedb_node.transport.credentials.authority import SigningKey
from nodedb_node.transport.credentials.sealing import SealingKey
from nodedb_node.transport.credentials.trust import Membership, Trust

FILE_BYTES_MAX = 64 << 20
LOCK_WAIT_S = 1.0
LOCK_POLL_S = 0.01
SEALING, NODE, NEXT, TRUST = "sealing.key", "node.pem", "next.key", "trust"


class TrustFile(Struct, frozen=True):
    """The file `trust`: a Trust as JSON, read by every process of the node."""

    format: int
    cluster_id: str
    generation: int
    authorities: list[tuple[bytes, bytes]]
    pins: dict[str, list[bytes]]
    removed: list[str]


class NodeCertificate(Struct, frozen=True):
    """What this node shows to its peers."""

    der: bytes
    key: SigningKey


class CredentialFiles:
    """Of one data directory."""

    def __init__(self, data_dir: str) -> None:
        self.path = os.path.join(data_dir, "tls")
        self._seen: tuple[int, int] | None = None

    def make(self) -> None:
        """The directory, if it is not there; StartError when others than its owner can look into it."""
        try:
            os.mkdir(self.path, 0o700)
            sync_dir(os.path.dirname(self.path))
        except FileExistsError:
            self._private(self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone among the processes that change keys: each takes milliseconds; StartError when one takes longer."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            deadline = time.monotonic() + LOCK_WAIT_S
            while not _lock(descriptor):
                if time.monotonic() > deadline:
                    line = f"{self.path} is being changed by another process; try again"
                    raise StartError(Exit.TEMPORARY, line)
                time.sleep(LOCK_POLL_S)
            yield
        finally:
            os.close(descriptor)

    def sealing_key(self) -> SealingKey:
        """The node's sealing key; made when there is none."""
        raw = self._read(SEALING)
        if raw is None:
            key = SealingKey.make()
            replace_file(self.path, SEALING, key.raw().hex().encode())
            return key
        try:
            return SealingKey.load(bytes.fromhex(raw.decode("ascii").strip()))
        except (UnicodeDecodeError, ValueError) as error:
            raise self._damaged(SEALING) from error

    def has_sealing_key(self) -> bool:
        return self._read(SEALING) is not None

    def next_key(self) -> SigningKey:
        """The key that a certificate is asked for; made when there is none."""
        raw = self._read(NEXT)
        if raw is not None:
            return self._signing(NEXT, raw)
        key = SigningKey.make()
        replace_file(self.path, NEXT, key.pem())
        return key

    def drop_next_key(self) -> None:
        """So that the next one is another."""
        if self._read(NEXT) is not None:
            os.unlink(os.path.join(self.path, NEXT))
            sync_dir(self.path)

    def certificate(self) -> NodeCertificate | None:
        """The node's certificate and key; None when it has none yet."""
        raw = self._read(NODE)
        if raw is None:
            return None
        try:
            return NodeCertificate(
                x509.load_pem_x509_certificate(raw).public_bytes(Encoding.DER), self._signing(NODE, raw)
            )
        except ValueError as error:
            raise self._damaged(NODE) from error

    def install(self, certificate_der: bytes, key: SigningKey) -> None:
        """Show this certificate from now on; the key is no longer the next one."""
        pem = x509.load_der_x509_certificate(certificate_der).public_bytes(Encoding.PEM)
        replace_file(self.path, NODE, pem + key.pem())
        self.drop_next_key()

    def write_trust(self, trusted: Trust) -> None:
        """For every process of the node."""
        pins = {str(node_id): sorted(pins) for node_id, pins in sorted(trusted.membership.pins.items())}
        pairs = [(authority.der, authority.crl) for authority in trusted.authorities]
        removed = sorted(trusted.membership.removed)
        content = TrustFile(1, trusted.cluster_id, trusted.generation, pairs, pins, [str(node) for node in removed])
        replace_file(self.path, TRUST, msgspec.json.encode(content))

    def trust(self) -> Trust | None:
        """What control wrote last; None before it did. TrustError when it does not hold."""
        raw = self._read(TRUST)
        if raw is None:
            return None
        try:
            found = msgspec.json.decode(raw, type=TrustFile)
        except UNREADABLE as error:
            raise self._damaged(TRUST) from error
        if found.format != 1:
            raise StartError(Exit.DATA, f"{self.path}/{TRUST} has format {found.format}; use the version that wrote it")
        pins = {NodeId(node_id): frozenset(pins) for node_id, pins in found.pins.items()}
        membership = Membership(pins, frozenset(NodeId(node_id) for node_id in found.removed))
        return trust.trust(ClusterId(found.cluster_id), found.generation, found.authorities, membership)

    def changed_trust(self) -> Trust | None:
        """The Trust, if the file was replaced since the last call: one stat when not. For a loop to ask every second;
        the node's certificate is replaced no later than the Trust that knows it."""
        try:
            found = os.stat(os.path.join(self.path, TRUST))
        except FileNotFoundError:
            return None
        if (found.st_ino, found.st_mtime_ns) == self._seen:
            return None
        self._seen = (found.st_ino, found.st_mtime_ns)
        return self.trust()

    def _signing(self, name: str, raw: bytes) -> SigningKey:
        try:
            key = load_pem_private_key(raw, password=None)
            return SigningKey.of(key)
        except (ValueError, TypeError) as error:
            raise self._damaged(name) from error

    def _read(self, name: str) -> bytes | None:
        path = os.path.join(self.path, name)
        try:
            with open(path, "rb") as file:
                self._private(path)
                return file.read(FILE_BYTES_MAX)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StartError(Exit.IO, f"{path} cannot be read: {error.strerror}") from error

    def _private(self, path: str) -> None:
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if mode & 0o077:
            line = f"{path} can be read by others than its owner (mode {mode:o}): chmod go= {path}, then renew its keys"
            raise StartError(Exit.DATA, line)

    def _damaged(self, name: str) -> StartError:
        return StartError(Exit.DATA, f"{self.path}/{name} is damaged; restore it from a backup")


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
