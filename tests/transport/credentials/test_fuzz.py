"""verify_peer on mutated certificates: always an answer, never an exception, and never an identity by accident.

NODEDB_TEST_SEED chooses the mutations, FUZZ_SECONDS how long; by default a fixed number of them.
"""

import contextlib
import random
from collections.abc import Iterator, Sequence

from cryptography import x509

from nodedb_node.transport.credentials.authority import RequestError, SigningKey, requested_key
from nodedb_node.transport.credentials.reasons import Refusal
from nodedb_node.transport.credentials.verify import Expected, PeerIdentity, verify_peer
from tests.seeds import rounds
from tests.transport.credentials.kit import AUTHORITY, BOTH, KEY, NOW_S, leaf, trusting, uri

MUTATIONS = 6_000
INTERESTING = (
    0x00,
    0x01,
    0x02,
    0x03,
    0x05,
    0x06,
    0x0C,
    0x17,
    0x18,
    0x30,
    0x31,
    0x7F,
    0x80,
    0x81,
    0x82,
    0x84,
    0xA0,
    0xFF,
)

SEEDS = (
    leaf(),
    AUTHORITY.der,
    leaf(uris=[uri(), "https://example.test/%00"], extended=BOTH[:1]),
    leaf(signer=KEY, extra=[(x509.NameConstraints([x509.DNSName("a")], None), True), (x509.OCSPNoCheck(), False)]),
    leaf(names=[x509.UniformResourceIdentifier(uri()), x509.DirectoryName(AUTHORITY.certificate.subject)]),
)


def elements(der: bytes, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(tag, first content byte, end) of every element, those inside others too; stops where it is not DER."""
    at = begin
    while at + 2 <= end:
        first, length = at + 2, der[at + 1]
        if length & 0x80:
            first += length & 0x7F
            length = int.from_bytes(der[at + 2 : first], "big")
        if first + length > end:
            return
        yield at, first, first + length
        if der[at] & 0x20 or der[at] == 0x04:
            yield from elements(der, first, first + length)
        at = first + length


def mutated(random_: random.Random, seeds: Sequence[bytes] = SEEDS) -> bytes:
    der = bytearray(random_.choice(seeds))
    for _ in range(random_.randint(1, 3)):
        places = list(elements(bytes(der), 0, len(der)))
        at = random_.randrange(len(der) or 1)
        match random_.randrange(8):
            case 0 if der:
                der[at] ^= 1 << random_.randrange(8)
            case 1 if der:
                der[at] = random_.choice(INTERESTING)
            case 2:
                del der[at : at + random_.randint(1, 9)]
            case 3:
                der[at:at] = random_.randbytes(random_.randint(1, 9))
            case 4 if places:
                tag, _, _ = random_.choice(places)
                der[tag] = random_.choice(INTERESTING)
            case 5 if places:
                _, first, end = random_.choice(places)
                der[first:end] = random_.randbytes(end - first)
            case 6 if places:
                _, first, end = random_.choice(places)
                _, other, other_end = random_.choice(places)
                der[first:end] = der[other:other_end]
            case 7 if places:
                tag, _, end = random_.choice(places)
                der[end:end] = der[tag:end]
    return bytes(der)


def signed_part(der: bytes) -> bytes:
    """What the signature covers: libraries overlook how many bits of the signature are said to be unused, for one."""
    return x509.load_der_x509_certificate(der).tbs_certificate_bytes


def test_whatever_the_bytes_there_is_an_answer() -> None:
    trust = trusting()
    issued = {signed_part(der) for der in (*SEEDS, AUTHORITY.der)}
    for random_ in rounds(MUTATIONS):
        der = mutated(random_)
        chain = [der] if random_.random() < 0.9 else [leaf(), der]
        found = verify_peer(chain, trust, NOW_S, Expected(unknown=True))
        assert isinstance(found, Refusal | PeerIdentity)
        if isinstance(found, PeerIdentity):
            assert signed_part(der) in issued, "a changed certificate passed"


def test_whatever_the_request_there_is_a_proven_key_or_a_refusal() -> None:
    good = [KEY.request("node"), SigningKey.make().request("x" * 60)]
    keys = [requested_key(der).public_numbers() for der in good]
    for random_ in rounds(MUTATIONS):
        der = mutated(random_, good)
        with contextlib.suppress(RequestError):
            assert requested_key(der).public_numbers() in keys, "a key that nobody proved to hold"
