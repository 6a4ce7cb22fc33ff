"""What an earlier version issued and stored is accepted by this one: files made once, never to be made again.

tests/golden/peer-v1.pem holds an authority, its list 2 (which revokes the second leaf), a good leaf and the revoked
one; security-rows-v1.json the rows of a catalog's table, in hex. `python -m tests.transport.credentials.test_golden`
made them; a change that makes one of these tests fail locks out running nodes.
"""

import json
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from nodedb_node.metadata.security import (
    EMPTY,
    AddAuthority,
    AuthorityRow,
    Conflict,
    RecordLeaf,
    RegisterSealingKey,
    Revoke,
    SecurityState,
    apply_all,
)
from nodedb_node.metadata.securitycatalog import rows, state
from nodedb_node.transport.credentials import authority, spiffe, trust
from nodedb_node.transport.credentials.authority import DAY_S, SigningKey
from nodedb_node.transport.credentials.certificate import fingerprint
from nodedb_node.transport.credentials.custodian import leaf_row, trust_of
from nodedb_node.transport.credentials.reasons import Reason, Refusal
from nodedb_node.transport.credentials.trust import Membership
from nodedb_node.transport.credentials.verify import Expected, PeerIdentity, verify_peer
from tests.transport.credentials.kit import CLUSTER, NODE, NOW_S

GOLDEN = Path(__file__).resolve().parents[2] / "golden"


def certificates() -> tuple[bytes, bytes, bytes, bytes]:
    """Authority, list, good leaf, revoked leaf; DER."""
    raw = (GOLDEN / "peer-v1.pem").read_bytes()
    made, good, revoked = (found.public_bytes(Encoding.DER) for found in x509.load_pem_x509_certificates(raw))
    return made, x509.load_pem_x509_crl(raw).public_bytes(Encoding.DER), good, revoked


def test_certificates_of_the_first_version() -> None:
    made, crl, good, revoked = certificates()
    trusted = trust.trust(CLUSTER, 1, [(made, crl)], Membership({}))
    found = verify_peer([good], trusted, NOW_S, Expected(unknown=True))
    assert isinstance(found, PeerIdentity)
    assert (found.node_id, found.until_s) == (NODE, NOW_S + 30 * DAY_S)
    refused = verify_peer([revoked], trusted, NOW_S, Expected(unknown=True))
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.REVOKED
    assert trusted.authorities[0].revocations.number == 2


def stored() -> dict[bytes, bytes]:
    found: dict[str, str] = json.loads((GOLDEN / "security-rows-v1.json").read_text())
    return {bytes.fromhex(key): bytes.fromhex(row) for key, row in found.items()}


def test_rows_of_the_first_version() -> None:
    found = state(stored())
    assert (found.generation, len(found.authorities), len(found.leaves)) == (5, 1, 2)
    assert {leaf.revoked_s for leaf in found.leaves.values()} == {0, NOW_S}
    assert rows(found) == stored(), "what is written again is the same"
    _, _, good, _ = certificates()
    assert isinstance(verify_peer([good], trust_of(CLUSTER, found), NOW_S, Expected(NODE)), PeerIdentity)
    with pytest.raises(Conflict):
        apply_all(found, 4, [])


def test_a_row_with_a_field_of_a_later_version_is_read() -> None:
    found = stored()
    key = next(key for key in found if key.startswith(b"node/"))
    found[key] = msgspec.msgpack.encode(msgspec.msgpack.decode(found[key]) | {"later": 1})
    assert state(found) == state(stored())


@pytest.mark.parametrize("number", range(1, 18))
def test_numbers_of_reasons_stay(number: int) -> None:
    names = (
        *("NO_CERTIFICATE", "MALFORMED", "WRONG_CHAIN", "WRONG_ALGORITHM", "OTHER_AUTHORITY", "EXPIRED"),
        *("NOT_YET_VALID", "WRONG_USAGE", "NO_NAME", "SEVERAL_NAMES", "MALFORMED_NAME", "OTHER_CLUSTER", "REVOKED"),
        *("REMOVED_NODE", "OTHER_NODE", "UNKNOWN_NODE", "PIN_MISMATCH"),
    )
    assert Reason(number).name == names[number - 1]


def make() -> None:
    signer = authority.make_authority(CLUSTER, SigningKey.make(), NOW_S)
    mark, name = fingerprint(signer.der), spiffe.spell(CLUSTER, NODE)
    good, bad = (
        leaf_row(authority.issue(signer, SigningKey.make().public, name, NOW_S, 30 * DAY_S), mark, NODE, NOW_S)
        for _ in range(2)
    )
    lists = (
        authority.make_list(signer, 1, [], NOW_S),
        authority.make_list(signer, 2, [(int(bad.serial, 16), NOW_S)], NOW_S),
    )
    row = AuthorityRow(
        fingerprint=mark, certificate=signer.der, crl=lists[0], crl_number=1, wrapped={NODE: b"sealed, not really"}
    )
    changes = [RegisterSealingKey(NODE, b"k" * 32), AddAuthority(row), RecordLeaf(good), RecordLeaf(bad)]
    made: SecurityState = apply_all(EMPTY, 0, [*changes, Revoke(bad.serial, lists[1], 2, NOW_S)])
    found = {key.hex(): value.hex() for key, value in sorted(rows(made).items())}
    (GOLDEN / "security-rows-v1.json").write_text(json.dumps(found, indent=1) + "\n")
    pems = [
        x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
        for der in (signer.der, good.certificate, bad.certificate)
    ]
    pems.append(x509.load_der_x509_crl(lists[1]).public_bytes(Encoding.PEM))
    (GOLDEN / "peer-v1.pem").write_bytes(b"".join(pems))


if __name__ == "__main__":
    make()
