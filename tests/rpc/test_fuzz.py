"""Every decoder of what peers say, on random and on mutated bytes: what it finds or its own kind of refusal.

An exception of another kind would leave the turn of the whole endpoint, not the session of who sent it.
NODEDB_TEST_SEED chooses the mutations, FUZZ_SECONDS how long; by default a fixed number of them.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import pytest

from nodedb_node.errors import UNREADABLE
from nodedb_node.ids import VShard
from nodedb_node.native.frame import Append, AppendHead, BadBytes, Entry, encode_append
from nodedb_node.raft import configuration
from nodedb_node.rpc import envelope, hello, messages, status, versioned
from nodedb_node.rpc.envelope import Envelope
from nodedb_node.rpc.frame import Flag, Frame, FrameError, FrameReader, Kind, encode
from tests.rpc.test_words import STATUSES, bobs
from tests.seeds import rounds

MUTATIONS = 4_000
TRANSFER = b"t" * 16
HEADS = bytes.fromhex("007f808f90919fa1bfc0c4c6cacbcfd3d9dcdd")  # of MessagePack's kinds
BLOBS = (
    b"\xa4\xff\xfe\xfd\xfc",
    b"\x91" * 2000,
    b"\xdd\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xcf" + b"\xff" * 8,
)


class Decoder(NamedTuple):
    """decode: raises one of `refuses` or answers; seeds: what senders make."""

    decode: Callable[[bytes], object]
    refuses: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]


def frames(raw: bytes) -> None:
    reader = FrameReader(Kind.QUERY)
    cut = len(raw) // 3
    reader.feed(raw[:cut])
    reader.feed(raw[cut:])
    assert reader.waiting_bytes <= len(raw)


def append(raw: bytes) -> None:
    for entry in Append(raw):
        assert len(entry.payload) <= len(raw)


def framed() -> bytes:
    kinds = [Flag.REQUEST, Flag.REPLY, Flag.REPLY | Flag.ERROR, Flag.ONEWAY, Flag.CANCEL]
    made = [Frame(40, flags, Kind.QUERY, flags != Flag.ONEWAY, 9, b"x" * 40) for flags in kinds]
    return b"".join(piece for one in made for piece in encode(one))


MEMBERS = configuration.encode(configuration.founding([1, 2, 3]))  # type: ignore[list-item]
HEAD = AppendHead(group=3, term=4, prev_index=10, prev_term=4, commit=9)
DECODERS = {
    "frame": Decoder(frames, (FrameError,), (framed(),)),
    "greeting": Decoder(hello.decode_hello, (), (hello.encode(bobs(software="0.1")),)),
    "status": Decoder(status.decode, (), tuple(status.encode(one) for one in STATUSES)),
    "envelope": Decoder(envelope.decode, UNREADABLE, (envelope.encode(Envelope(VShard(3), 2, 1, 4, b"payload")),)),
    "append": Decoder(append, (BadBytes,), (encode_append(HEAD, [Entry(11, 4, 1, b"set a"), Entry(12, 4, 2, b"")]),)),
    "bulk open": Decoder(
        messages.decode_open, (BadBytes,), (messages.encode(messages.BulkOpen(TRANSFER, "snapshot", 99, b"x")),)
    ),
    "bulk answer": Decoder(messages.decode_answer, (BadBytes,), (messages.encode(messages.BulkAnswer(1, 2)),)),
    "bulk abort": Decoder(messages.decode_abort, (BadBytes,), (messages.encode(messages.BulkAbort(TRANSFER, "no")),)),
    "bulk chunk": Decoder(messages.decode_chunk, (BadBytes,), (messages.chunk(TRANSFER, 4, b"data"),)),
    "bulk credit": Decoder(messages.decode_credit, (BadBytes,), (messages.credit(TRANSFER, 1, 2),)),
    "configuration": Decoder(configuration.decode, (), (MEMBERS,)),
    "wrapped": Decoder(
        lambda raw: versioned.unwrap(raw, 1, 3),
        (versioned.NotVersioned, versioned.UnknownVersion),
        (versioned.wrap(2, b"row"),),
    ),
}


def mutated(random_: random.Random, seed: bytes) -> bytes:
    """Bits, lengths, types, words that are not UTF-8, nesting, more or fewer fields, or only noise."""
    raw = bytearray(seed)
    for _ in range(random_.randint(1, 3)):
        at = random_.randrange(len(raw) + 1)
        match random_.randrange(9):
            case 0:
                raw[at : at + 1] = bytes([random_.randrange(256)])
            case 1:
                raw[at : at + 1] = bytes([random_.choice(HEADS)])
            case 2:
                del raw[at : at + random_.randint(1, 9)]
            case 3:
                raw[at:at] = random_.randbytes(random_.randint(1, 9))
            case 4:
                raw[at:at] = random_.choice(BLOBS)
            case 5:
                raw[at : at + random_.randint(1, 9)] = random_.choice(BLOBS)
            case 6 if raw and 0x90 <= raw[0] < 0x9F:  # one field more, of any kind
                raw[0] += 1
                raw += random_.choice(BLOBS)
            case 7:
                raw[at:at] = raw[: random_.randint(1, 40)]
            case _:
                raw = bytearray(random_.randbytes(random_.randrange(80))) if random_.random() < 0.2 else raw
    return bytes(raw)


@pytest.mark.parametrize("name", DECODERS)
def test_whatever_the_bytes_there_is_an_answer(name: str) -> None:
    decoder = DECODERS[name]
    read = refused = 0
    for seed in decoder.seeds:
        decoder.decode(seed)
    for random_ in rounds(MUTATIONS):
        raw = mutated(random_, random_.choice(decoder.seeds))
        try:
            decoder.decode(raw)
            read += 1
        except decoder.refuses:
            refused += 1
    assert read and (refused or not decoder.refuses), "mutations reach both ends"


@pytest.mark.parametrize("tail", [b"\xa1\xff", b"\x91" * 3000 + b"\xc0"], ids=["not UTF-8", "nested"])
def test_a_field_of_a_later_version_that_cannot_be_skipped(tail: bytes) -> None:
    """Greetings are read before anything is known of who sends them."""
    fields = msgspec.to_builtins(bobs(), builtin_types=(bytes,))
    raw = b"\xdc" + (len(fields) + 1).to_bytes(2, "big") + b"".join(map(msgspec.msgpack.encode, fields)) + tail
    found = hello.decode_hello(raw)
    assert isinstance(found, hello.Hello) or found.why is hello.Why.GARBLED
    told = b"\x92\x07" + b"\xa1\xff"
    assert isinstance(status.decode(told), status.Internal)
