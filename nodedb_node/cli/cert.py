"""nodedb-node cert: the certificates by which nodes of a cluster know each other. World file: reads files, the clock.

Invariant: what it says of a certificate is what a lane would do with it: the same function judges both. A change is one
change of the catalog's SecurityStore, which a running node looks at every second; so the verbs work beside it as well
as on a directory whose node is stopped, and need nothing but the rights to the data directory's files. Private keys are
neither shown nor taken.
"""

from __future__ import annotations

import datetime
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Struct

from nodedb_node.cli.load import load_config
from nodedb_node.cli.start import flags
from nodedb_node.cli.status import table
from nodedb_node.config import Config
from nodedb_node.errors import Exit, StartError
from nodedb_node.ids import ClusterId, NodeId
from nodedb_node.metadata.catalog import Catalog
from nodedb_node.metadata.security import AuthorityRow, ChangeRefused, NodeRow, SecurityState, SecurityStore
from nodedb_node.supervisor.datadir import holder
from nodedb_node.transport.credentials.authority import DAY_S, RequestError
from nodedb_node.transport.credentials.custodian import trust_of
from nodedb_node.transport.credentials.files import CredentialFiles
from nodedb_node.transport.credentials.keeper import Keeper
from nodedb_node.transport.credentials.reasons import Refusal
from nodedb_node.transport.credentials.schedule import renewal_due_s
from nodedb_node.transport.credentials.trust import Trust, TrustError, authority
from nodedb_node.transport.credentials.verify import Expected, verify_peer

FILE_BYTES_MAX = 1 << 20
NONE_YET = "there are no certificates yet: nodedb-node cert init, or a start of the node, makes them"
AUTHORITY_COLUMNS = ("authority", "role", "ends", "list", "next list", "key held by")
NODE_COLUMNS = ("node", "state", "serial", "ends", "renewal", "authority", "pins")
PIN_COLUMNS = ("node", "pin", "serial", "ends")


@click.group("cert")
def command() -> None:
    """The certificates by which nodes of a cluster know each other.

    Works on the data directory of a stopped node, and beside a running one, which takes changes over within seconds."""


class Place(Struct, frozen=True):
    """An open data directory."""

    path: str
    config: Config
    cluster_id: ClusterId
    node_id: NodeId
    store: SecurityStore

    def keeper(self) -> Keeper:
        """Of the directory's node; makes its sealing key when it has none."""
        days = self.config.peers.certificate_days
        return Keeper(self.store, CredentialFiles(self.path), self.cluster_id, self.node_id, days * DAY_S)

    def trust(self) -> Trust:
        state = self.store.read()
        if not state.authorities:
            raise StartError(Exit.UNAVAILABLE, NONE_YET)
        return trust_of(self.cluster_id, state)


def placed(verb: Callable[..., int]) -> Callable[..., int]:
    """Options that say which data directory."""
    verb = click.option("--data-dir", metavar="DIR", help="the node's data directory (default ./nodedb-data)")(verb)
    return click.option("--config", "config_file", metavar="FILE", help="TOML file; also $NODEDB_CONFIG")(verb)


@contextmanager
def opened(config_file: str | None, data_dir: str | None, *, change: bool = False) -> Iterator[Place]:
    """The directory's catalog; what is refused becomes one line. With `change` it says who will take it over."""
    config = load_config(config_file, flags({"data_dir": data_dir}))
    path = os.path.abspath(config.node.data_dir)
    if not os.path.isdir(os.path.join(path, "catalog")):
        raise StartError(Exit.NO_INPUT, f"{path} has no catalog: start the node once, it makes its own certificates")
    _check_owner(path)
    with Catalog.open(Path(path) / "catalog") as catalog:
        identity = catalog.identity()
        if identity is None:
            raise StartError(Exit.NO_INPUT, f"{path} was never in use: start the node once")
        ids = ClusterId(identity.cluster_id), NodeId(identity.node_id)
        try:
            yield Place(path, config, *ids, catalog.security())
        except ChangeRefused as error:
            raise StartError(Exit.UNAVAILABLE, str(error)) from error
        except (RequestError, TrustError) as error:
            raise StartError(Exit.DATA, str(error)) from error
    running = holder(path)
    if change and running is not None:
        click.echo(f"the running node (process {running}) takes it over within seconds", err=True)


def _check_owner(path: str) -> None:
    """Files that another user makes here would keep the node from reading them."""
    owner = os.stat(path).st_uid
    if owner != os.geteuid():
        raise StartError(Exit.USAGE, f"{path} belongs to user {owner}: run this as that user")


def now_s() -> int:
    return int(time.time())


# ---- what there is ----


@command.command("show")
@placed
@click.option("--pem", is_flag=True, help="the authorities and their revocation lists, for other programs")
def show(config_file: str | None, data_dir: str | None, pem: bool) -> int:
    """The cluster's authorities, and each node with its certificate, its next renewal and its pins."""
    with opened(config_file, data_dir) as place:
        state = place.store.read()
        if not state.authorities:
            raise StartError(Exit.UNAVAILABLE, NONE_YET)
        for line in pem_lines(state) if pem else lines(place, state, now_s()):
            click.echo(line)
    return Exit.OK.value


def lines(place: Place, state: SecurityState, now: int) -> Iterator[str]:
    """The state for people."""
    yield f"cluster {place.cluster_id}  generation {state.generation}  peers {place.config.peers.security}"
    held = CredentialFiles(place.path).certificate()
    if held is None:
        yield f"this node {place.node_id[:16]}: no certificate yet; a start makes it"
    else:
        found = verify_peer([held.der], place.trust(), now, Expected(place.node_id))
        verdict = f"its peers would refuse it, {found}" if isinstance(found, Refusal) else "its peers accept it"
        yield f"this node {place.node_id[:16]}: {verdict}"
    yield ""
    rows = sorted(state.authorities.values(), key=lambda row: row.added)
    yield from table(AUTHORITY_COLUMNS, (_authority_cells(state, row, now) for row in rows))
    for row in rows:
        unaware = state.unaware(row)
        if unaware and row.added != rows[0].added:
            names = ", ".join(node[:16] for node in unaware)
            yield f"{_mark(row.fingerprint)} issues once these nodes trust it: {names}"
    yield ""
    yield from table(NODE_COLUMNS, (_node_cells(state, node, now) for node in state.nodes.values()))


def _authority_cells(state: SecurityState, row: AuthorityRow, now: int) -> tuple[str, ...]:
    found, issuing = authority(row.certificate, row.crl), state.issuing()
    role = "issues" if issuing is not None and row.fingerprint == issuing.fingerprint else "is trusted"
    late = "STALE " if found.revocations.next_update_s < now else ""
    holders = ",".join(sorted(node[:16] for node in row.wrapped))
    next_list = late + _day(found.revocations.next_update_s)
    return _mark(row.fingerprint), role, _day(found.not_after_s), str(row.crl_number), next_list, holders


def _node_cells(state: SecurityState, node: NodeRow, now: int) -> tuple[str, ...]:
    if node.removed_s:
        return node.node_id[:16], f"removed {_day(node.removed_s)}", "-", "-", "-", "-", "0"
    newest = max(state.shown(node, now), key=lambda leaf: leaf.recorded, default=None)
    if newest is None:
        return node.node_id[:16], "no certificate", "-", "-", "-", "-", str(len(node.pins))
    due = _day(renewal_due_s(newest.issued_s, newest.not_after_s, newest.serial))
    ends, mark = _day(newest.not_after_s), _mark(newest.issuer)
    return node.node_id[:16], "member", newest.serial, ends, due, mark, str(len(node.pins))


def pem_lines(state: SecurityState) -> Iterator[str]:
    """Certificates and lists of all authorities."""
    for row in sorted(state.authorities.values(), key=lambda row: row.added):
        yield pem(row.certificate)
        yield x509.load_der_x509_crl(row.crl).public_bytes(Encoding.PEM).decode().strip()


def pem(certificate_der: bytes) -> str:
    return x509.load_der_x509_certificate(certificate_der).public_bytes(Encoding.PEM).decode().strip()


def _mark(fingerprint: bytes) -> str:
    return fingerprint.hex()[:16]


def _day(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%MZ")


@command.command("verify")
@click.argument("file")
@placed
@click.option("--node", metavar="ID", help="the node that is expected; without it, any member")
@click.option("--unknown", is_flag=True, help="also a node that is not a member yet, as for metadata catch-up")
def verify(config_file: str | None, data_dir: str | None, file: str, node: str | None, unknown: bool) -> int:
    """Whether this node would let in a peer that shows the certificates in FILE (PEM), and why not. Exit code 1 when
    it would not."""
    chain = certificates(file)
    with opened(config_file, data_dir) as place:
        now = now_s()
        found = verify_peer(chain, place.trust(), now, Expected(None if node is None else NodeId(node), unknown))
    if isinstance(found, Refusal):
        click.echo(f"refused, {found}")
        return 1
    click.echo(f"passes, {found.name}, for {(found.until_s - now) // DAY_S} days")
    return Exit.OK.value


# ---- changes ----


@command.command("init")
@placed
def init(config_file: str | None, data_dir: str | None) -> int:
    """Make the cluster's authority and this node's certificate, as the first start in mtls mode does by itself."""
    with opened(config_file, data_dir, change=True) as place:
        made = place.keeper().open(now_s())
        (mark, *_) = place.store.read().authorities
    click.echo(f"authority {_mark(mark)} {'was made' if made else 'was there already'}")
    return Exit.OK.value


@command.command("issue")
@placed
@click.option("--csr", "request", required=True, metavar="FILE", help="signing request (PKCS 10, PEM) of a P-256 key")
@click.option("--node", required=True, metavar="ID", help="the node that gets it, 40 hex digits")
def issue(config_file: str | None, data_dir: str | None, request: str, node: str) -> int:
    """Issue a certificate for a node and pin its key; the certificate goes to standard output. Of the request only the
    key is taken. The same key gets the same certificate."""
    try:
        der = x509.load_pem_x509_csr(read(request)).public_bytes(Encoding.DER)
    except ValueError as error:
        raise StartError(Exit.DATA, f"{request} holds no signing request in PEM") from error
    with opened(config_file, data_dir, change=True) as place:
        row = place.keeper().custodian.issue(der, _node_id(node), now_s())
    click.echo(pem(row.certificate))
    return Exit.OK.value


def _node_id(text: str) -> NodeId:
    if re.fullmatch("[0-9a-f]{40}", text) is None:
        raise StartError(Exit.USAGE, f"{text}: a node's id has 40 lower-case hex digits")
    return NodeId(text)


@command.command("renew")
@placed
def renew(config_file: str | None, data_dir: str | None) -> int:
    """Give this node another key and certificate now; it does so by itself in time."""
    with opened(config_file, data_dir, change=True) as place:
        keeper = place.keeper()
        row = keeper.renew(now_s())
        keeper.publish(now_s())
    click.echo(f"serial {row.serial}, ends {_day(row.not_after_s)}")
    return Exit.OK.value


@command.group("rotate-ca")
def rotate() -> None:
    """Replace the cluster's authority while every node goes on: begin, wait until all nodes renewed, finish."""


@rotate.command("begin")
@placed
def begin(config_file: str | None, data_dir: str | None) -> int:
    """Trust a new authority. It issues once every node trusts it; then nodes renew by themselves: see `cert show`."""
    with opened(config_file, data_dir, change=True) as place:
        row = place.keeper().custodian.begin_rotation(now_s())
    click.echo(
        f"authority {_mark(row.fingerprint)} was made; next: nodedb-node cert rotate-ca finish, when all renewed"
    )
    return Exit.OK.value


@rotate.command("finish")
@placed
def finish(config_file: str | None, data_dir: str | None) -> int:
    """Trust the old authority no longer; refused while a node still shows a certificate of it."""
    with opened(config_file, data_dir, change=True) as place:
        place.keeper().custodian.finish_rotation(now_s())
    click.echo("the old authority is retired")
    return Exit.OK.value


@command.command("keepers")
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@placed
def keepers(config_file: str | None, data_dir: str | None, nodes: tuple[str, ...]) -> int:
    """Seal the authority's private key for these nodes and no others: they alone can issue and revoke."""
    with opened(config_file, data_dir, change=True) as place:
        place.keeper().custodian.rewrap([_node_id(node) for node in nodes])
    click.echo(f"the authority's key is sealed for {len(nodes)} nodes")
    return Exit.OK.value


@command.command("revoke")
@click.argument("serial")
@placed
def revoke(config_file: str | None, data_dir: str | None, serial: str) -> int:
    """Refuse the certificate with this SERIAL (hex) from now on, and its key; connections made with it are closed."""
    with opened(config_file, data_dir, change=True) as place:
        place.keeper().custodian.revoke(serial.lower(), now_s())
    click.echo(f"{serial} is revoked")
    return Exit.OK.value


@command.command("remove")
@click.argument("node")
@placed
@click.option("--yes", is_flag=True, help="really do it: this node id is never let in again")
def remove(config_file: str | None, data_dir: str | None, node: str, yes: bool) -> int:
    """Refuse NODE for good, whatever certificate it shows."""
    if not yes:
        raise StartError(Exit.USAGE, f"would refuse node {node} for good; add --yes")
    with opened(config_file, data_dir, change=True) as place:
        place.keeper().custodian.remove(NodeId(node), now_s())
    click.echo(f"{node} is removed")
    return Exit.OK.value


@command.command("pins")
@placed
@click.option("--drop", metavar="PIN", help="refuse this key from now on (needs --node)")
@click.option("--node", metavar="ID", help="of this node alone")
def pins(config_file: str | None, data_dir: str | None, drop: str | None, node: str | None) -> int:
    """The keys that each node may show, as SHA-256 of their SubjectPublicKeyInfo."""
    with opened(config_file, data_dir, change=drop is not None) as place:
        if drop is not None:
            _drop(place, drop, node)
        for line in table(PIN_COLUMNS, _pin_cells(place.store.read(), node)):
            click.echo(line)
    return Exit.OK.value


def _drop(place: Place, drop: str, node: str | None) -> None:
    if node is None:
        raise StartError(Exit.USAGE, "--drop needs --node: whose pin it is")
    try:
        pin = bytes.fromhex(drop)
    except ValueError as error:
        raise StartError(Exit.USAGE, f"--drop {drop}: expected hex digits, as `cert pins` shows them") from error
    place.keeper().custodian.drop_pin(NodeId(node), pin)


def _pin_cells(state: SecurityState, only: str | None) -> Iterator[tuple[str, ...]]:
    for node in state.nodes.values():
        for pin in node.pins if only in (None, node.node_id) else ():
            leaves = [leaf for leaf in state.leaves.values() if leaf.spki_sha256 == pin]
            newest: Any = max(leaves, key=lambda leaf: leaf.recorded, default=None)
            of = ("-", "-") if newest is None else (newest.serial, _day(newest.not_after_s))
            yield node.node_id, pin.hex(), *of


# ---- files ----


def certificates(file: str) -> list[bytes]:
    """The certificates of a PEM file, DER."""
    try:
        return [found.public_bytes(Encoding.DER) for found in x509.load_pem_x509_certificates(read(file))]
    except ValueError as error:
        raise StartError(Exit.DATA, f"{file} holds no certificate in PEM: {error}") from error


def read(file: str) -> bytes:
    try:
        with Path(file).open("rb") as source:
            return source.read(FILE_BYTES_MAX)
    except OSError as error:
        raise StartError(Exit.NO_INPUT, f"{file}: cannot be read: {error.strerror}") from error
