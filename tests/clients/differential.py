"""Random commands for comparing two servers reply by reply: what to send, and which replies count as equal.

Keys share one hash tag, so that commands on several keys are allowed everywhere. Expiry times are far away or
past, so that nothing expires between the two servers' turns. Differences accepted here are listed in
docs/differences.md.
"""

import random
from collections.abc import Callable

Command = tuple[bytes, ...]
Arg = Callable[[random.Random], bytes]

KEYS = tuple(b"{t}%d" % i for i in range(8))
INTEGERS = (
    *(b"0 1 -1 2 5 7 8 9 10 63 64 100 255 256 -2 -3 -100 9223372036854775807 -9223372036854775808".split()),
    *(b"9223372036854775808 -9223372036854775809 99999999999999999999 +1 -0 00 01 1.0 1e3 0x10 abc".split()),
    *(b"", b" 1", b"1 ", b"1\x00", b"4294967296", b"2147483648", b"10000", b"9999"),
)
FLOATS = (
    *(b"0 1 -1 0.1 -0.1 3.14159 1e5 1E-5 5.0e3 1e300 -1e300 1e4932 1e5000 1e-4951 1e-6000".split()),
    *(b"inf -inf nan infinity".split()),
    *(b"0x1p4 0x.8 1. .5 - . e 1e 17179869184 3.0e-17 0.00000000000000001 123456789012345678901234567890".split()),
    *(b"", b" 1", b"1 ", b"+2.5", b"1.5\x00"),
)
VALUES = (b"", b"a", b"hello world", b"\x00", b"\xff\xff\xff\xff", b"\x00\xff\x0f\xf0", b"x" * 44, b"y" * 300)
OFFSETS = (
    *(b"0 1 2 3 5 7 8 9 15 16 31 63 64 100 1000 -1 -2 -5 -100 134217727 134217728 16777215 16777216 16777217".split()),
    *(b"9223372036854775807 -9223372036854775808 9223372036854775808 #0 #1 #3 # #-1 #x x".split()),
    b"",
)
FIELD_TYPES = b"u1 u4 u8 u16 u31 u32 u63 i1 i5 i8 i16 i32 i64 u64 i65 u0 i0 i-1 x8 8 u u1x U8".split()
ODD_TIMES = b"0 -1 -100 9223372036854775807 9223372036854775 -9223372036854775808 x 1.5".split()
AT_SECONDS = b"1 100 4102444800 4102444801 0 -1 9223372036854775 9223372036854776 -9223372036854775 x".split()
AT_MILLISECONDS = b"1 4102444800000 4102444800499 4102444800500 4102444801999 0 -1 9223372036854775807 x".split()
JUNK = (b"", b"NX", b"XX", b"GET", b"EX", b"KEEPTTL", b"BIT", b"foo\r\nbar", b"\x00", b"z" * 200, b"%s%n")


def one_of(*choices: bytes) -> Arg:
    """One of the words, in some spelling of their case."""

    def pick(rng: random.Random) -> bytes:
        word = rng.choice(choices)
        return rng.choice((word, word.lower(), word.upper(), word.swapcase()))

    return pick


def key(rng: random.Random) -> bytes:
    return rng.choice(KEYS)


def integer(rng: random.Random) -> bytes:
    return rng.choice(INTEGERS) if rng.random() < 0.4 else b"%d" % rng.randint(-20, 20)


def number(rng: random.Random) -> bytes:
    if rng.random() < 0.4:
        return rng.choice(FLOATS)
    return b"%.*f" % (rng.randint(0, 18), rng.uniform(-1000, 1000))


def value(rng: random.Random) -> bytes:
    which = rng.random()
    if which < 0.3:
        return integer(rng)
    if which < 0.4:
        return number(rng)
    return rng.choice(VALUES) if which < 0.7 else rng.randbytes(rng.randint(0, 40))


def offset(rng: random.Random) -> bytes:
    return rng.choice(OFFSETS) if rng.random() < 0.25 else b"%d" % rng.randint(-10, 80)


def bit_offset(rng: random.Random) -> bytes:
    return rng.choice(OFFSETS) if rng.random() < 0.15 else b"%d" % rng.randint(0, 200)


def field_offset(rng: random.Random) -> bytes:
    """Not at the very end of the largest value, and no "#" count whose product overflows: accepted differences."""
    place = b"%d" % rng.randint(0, 200)
    if rng.random() < 0.1:
        place = rng.choice((b"", b"-1", b"x", b"#", b"1.0", b"134217728"))
    return (b"#" if rng.random() < 0.3 and len(place) < 5 else b"") + place


def field_type(rng: random.Random) -> bytes:
    return rng.choice(FIELD_TYPES) if rng.random() < 0.4 else b"%c%d" % (rng.choice(b"iu"), rng.randint(1, 64))


def pick_from(choices: list[bytes]) -> Arg:
    return lambda rng: rng.choice(choices)


at_seconds, at_milliseconds = pick_from(AT_SECONDS), pick_from(AT_MILLISECONDS)


def seconds(rng: random.Random) -> bytes:
    """From now; never the same twice, as GT and LT compare what the two servers' clocks made of it."""
    return rng.choice(ODD_TIMES) if rng.random() < 0.3 else b"%d" % rng.randint(10**4, 10**9)


def milliseconds(rng: random.Random) -> bytes:
    return rng.choice(ODD_TIMES) if rng.random() < 0.3 else b"%d" % rng.randint(10**6, 10**11)


def times(rng: random.Random) -> list[bytes]:
    """EX, PX, EXAT or PXAT with its time."""
    word, time = rng.choice(
        ((b"EX", seconds), (b"PX", milliseconds), (b"EXAT", at_seconds), (b"PXAT", at_milliseconds))
    )
    return [one_of(word)(rng), time(rng)]


def set_options(rng: random.Random) -> list[bytes]:
    words: list[bytes] = []
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        words += times(rng) if rng.random() < 0.5 else [one_of(b"NX", b"XX", b"GET", b"KEEPTTL", b"PERSIST")(rng)]
    return words


def getex_options(rng: random.Random) -> list[bytes]:
    words = [] if rng.random() < 0.2 else times(rng) if rng.random() < 0.7 else [one_of(b"PERSIST")(rng)]
    return words + (times(rng) if rng.random() < 0.1 else [])


def expire_options(rng: random.Random) -> list[bytes]:
    return [one_of(b"NX", b"XX", b"GT", b"LT", b"zz")(rng) for _ in range(rng.choice((0, 0, 1, 1, 2)))]


def field_ops(rng: random.Random) -> list[bytes]:
    words: list[bytes] = []
    for _ in range(rng.randint(0, 4)):
        which = rng.random()
        if which < 0.2:
            words += [one_of(b"OVERFLOW")(rng), one_of(b"WRAP", b"SAT", b"FAIL", b"FOO")(rng)]
        elif which < 0.45:
            words += [one_of(b"GET")(rng), field_type(rng), field_offset(rng)]
        else:
            words += [one_of(b"INCRBY")(rng), field_type(rng), field_offset(rng), integer(rng)]
            if words[-1] != b"-9223372036854775808":  # as SET's operand: an accepted difference
                words[-4] = one_of(b"SET", b"INCRBY")(rng)
    return words


def get_ops(rng: random.Random) -> list[bytes]:
    words: list[bytes] = []
    for _ in range(rng.randint(0, 3)):
        words += [one_of(b"GET")(rng), field_type(rng), field_offset(rng)]
    return words if rng.random() < 0.9 else field_ops(rng)


def bit_range(rng: random.Random) -> list[bytes]:
    words = [offset(rng) for _ in range(rng.choice((0, 1, 2, 2, 2)))]
    return words + [one_of(b"BIT", b"BYTE", b"FOO")(rng) for _ in range(rng.choice((0, 0, 1)))]


def keys(rng: random.Random) -> list[bytes]:
    return [key(rng) for _ in range(rng.randint(1, 4))]


def pairs(rng: random.Random) -> list[bytes]:
    return [part for _ in range(rng.randint(1, 3)) for part in (key(rng), value(rng))]


def copy_options(rng: random.Random) -> list[bytes]:
    options = ([b"REPLACE"], [], [b"replace"], [b"DB", b"0"], [b"DB", b"1"], [b"DB", b"x"], [b"DB"], [b"zz"])
    return rng.choice(options) + rng.choice(([], [], [b"REPLACE"]))


# Per command: its weight, then generators of one argument or of a list of them.
COMMANDS: dict[bytes, tuple[object, ...]] = {
    b"SET": (6, key, value, set_options),
    b"GET": (3, key),
    b"SETNX": (1, key, value),
    b"SETEX": (1, key, seconds, value),
    b"PSETEX": (1, key, milliseconds, value),
    b"GETSET": (1, key, value),
    b"GETDEL": (1, key),
    b"GETEX": (2, key, getex_options),
    b"MGET": (1, keys),
    b"MSET": (1, pairs),
    b"MSETNX": (1, pairs),
    b"APPEND": (2, key, value),
    b"STRLEN": (1, key),
    b"GETRANGE": (2, key, offset, offset),
    b"SUBSTR": (1, key, offset, offset),
    b"SETRANGE": (2, key, offset, value),
    b"INCR": (2, key),
    b"DECR": (1, key),
    b"INCRBY": (2, key, integer),
    b"DECRBY": (2, key, integer),
    b"INCRBYFLOAT": (3, key, number),
    b"SETBIT": (2, key, bit_offset, pick_from([b"0", b"1", b"1", b"2", b"-1", b"x"])),
    b"GETBIT": (1, key, bit_offset),
    b"BITCOUNT": (2, key, bit_range),
    b"BITPOS": (3, key, pick_from([b"0", b"1", b"0", b"1", b"2", b"x"]), bit_range),
    b"BITOP": (2, one_of(b"AND", b"OR", b"XOR", b"NOT", b"NAND"), key, keys),
    b"BITFIELD": (4, key, field_ops),
    b"BITFIELD_RO": (2, key, get_ops),
    b"DEL": (2, keys),
    b"UNLINK": (1, keys),
    b"EXISTS": (1, keys),
    b"TOUCH": (1, keys),
    b"TYPE": (1, key),
    b"TTL": (1, key),
    b"PTTL": (1, key),
    b"EXPIRETIME": (1, key),
    b"PEXPIRETIME": (1, key),
    b"EXPIRE": (2, key, seconds, expire_options),
    b"PEXPIRE": (1, key, milliseconds, expire_options),
    b"EXPIREAT": (1, key, at_seconds, expire_options),
    b"PEXPIREAT": (1, key, at_milliseconds, expire_options),
    b"PERSIST": (1, key),
    b"RENAME": (1, key, key),
    b"RENAMENX": (1, key, key),
    b"COPY": (2, key, key, copy_options),
    b"OBJECT": (1, one_of(b"FREQ", b"HELP", b"NOSUCH"), key),
    b"PING": (1, value),
    b"ECHO": (1, value),
    b"NOSUCH": (1, value, value),
}
MANY_KEYS = frozenset(b"MGET MSET MSETNX BITOP DEL UNLINK EXISTS TOUCH RENAME RENAMENX COPY".split())
NAMES = list(COMMANDS)
WEIGHTS = [float(str(COMMANDS[name][0])) for name in NAMES]
RELATIVE = {b"TTL": 1, b"PTTL": 1000, b"EXPIRETIME": 1, b"PEXPIRETIME": 1000}  # tolerance: units in a second


def command(rng: random.Random) -> Command:
    """A random command, now and then with a wrong number of arguments or a misplaced word."""
    name = rng.choices(NAMES, WEIGHTS)[0]
    argv = [one_of(name)(rng)]
    for make in COMMANDS[name][1:]:
        made = make(rng)  # type: ignore[operator]
        argv += made if isinstance(made, list) else [made]
    spoil = rng.random()
    if spoil < 0.02 and len(argv) > 1:
        argv.pop()
    elif spoil < 0.05 and not name.startswith(b"MSET"):
        word = key(rng) if name in MANY_KEYS else rng.choice(JUNK)  # any argument there may become a key
        argv.insert(rng.randint(2, len(argv)) if len(argv) > 2 else len(argv), word)
    return tuple(argv)


def equal(sent: Command, ours: bytes, theirs: bytes) -> bool:
    """Byte for byte, but for what depends on the moment: a second of tolerance."""
    if ours == theirs:
        return True
    units = RELATIVE.get(sent[0].upper())
    if units is None or ours[:1] != b":" or theirs[:1] != b":":
        return False
    a, b = int(ours[1:]), int(theirs[1:])
    return min(a, b) > 0 and abs(a - b) <= 2 * units
