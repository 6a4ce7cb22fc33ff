"""nodedb-node cert: the certificates by which nodes of a cluster know each other. World file: reads files, the clock.

Invariant: what it says of a certificate is what a lane would do with it: the same function judges both.
"""

import time
from pathlib import Path

import click
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from nodedb_node.errors import Exit, StartError
from nodedb_node.ids import ClusterId, NodeId
from nodedb_node.transport.credentials.authority import DAY_S
from nodedb_node.transport.credentials.reasons import Refusal
from nodedb_node.transport.credentials.trust import Membership, TrustError, trust
from nodedb_node.transport.credentials.verify import Expected, verify_peer

FILE_BYTES_MAX = 1 << 20


@click.group("cert")
def command() -> None:
    """The certificates by which nodes of a cluster know each other."""


@command.command("verify")
@click.argument("file")
@click.option("--authority", required=True, metavar="FILE", help="the authority's certificate, PEM")
@click.option("--list", "revoked", required=True, metavar="FILE", help="the authority's revocation list, PEM")
@click.option("--cluster", required=True, metavar="ID", help="the cluster's id")
@click.option("--node", metavar="ID", help="the node that is expected")
def verify(file: str, authority: str, revoked: str, cluster: str, node: str | None) -> int:
    """Whether a peer with the certificates in FILE would be let in, and why not. Exit code 1 when it would not."""
    try:
        crl = x509.load_pem_x509_crl(read(revoked)).public_bytes(Encoding.DER)
        trusted = trust(ClusterId(cluster), 0, [(certificates(authority)[0], crl)], Membership({}))
    except (ValueError, TrustError) as error:
        raise StartError(Exit.DATA, f"{authority}, {revoked}: {error}") from error
    expected = Expected(None if node is None else NodeId(node), unknown=True)
    now_s = int(time.time())
    found = verify_peer(certificates(file), trusted, now_s, expected)
    if isinstance(found, Refusal):
        click.echo(f"refused, {found}")
        return 1
    click.echo(f"passes, {found.name}, for {(found.until_s - now_s) // DAY_S} days")
    return Exit.OK.value


def certificates(file: str) -> list[bytes]:
    """The certificates of a PEM file, DER."""
    try:
        return [found.public_bytes(Encoding.DER) for found in x509.load_pem_x509_certificates(read(file))]
    except ValueError as error:
        raise StartError(Exit.DATA, f"{file} holds no certificate in PEM: {error}") from error


def read(file: str) -> bytes:
    try:
        with Path(file).open("rb") as opened:
            return opened.read(FILE_BYTES_MAX)
    except OSError as error:
        raise StartError(Exit.NO_INPUT, f"{file}: cannot be read: {error.strerror}") from error
