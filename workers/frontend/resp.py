"""RESP replies as Python makes and reads them: a few per administrative command, never on the path of data.

Invariant: what encode writes, decode reads back (RESP3 types that RESP2 lacks come back as their RESP2 form).
"""

from typing import NamedTuple

Value = None | int | str | bytes | list["Value"] | dict["Value", "Value"]


class Simple(NamedTuple):
    """A status line, such as +OK."""

    text: str


class Error(NamedTuple):
    """An error line; text begins with its code."""

    text: str


Reply = Value | Simple | Error
OK = b"+OK\r\n"


def error(text: str) -> bytes:
    line = text.replace("\r", " ").replace("\n", " ")
    return f"-{line}\r\n".encode("latin-1", "replace")


def integer(text: bytes) -> int | None:
    """An argument that Redis takes for a 64-bit integer: canonical decimal, no plus sign, no leading zeros."""
    if not text.removeprefix(b"-").isdigit() or text != b"%d" % int(text[:21]):
        return None
    number = int(text)
    return number if -(1 << 63) <= number < 1 << 63 else None


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(data), data)


def verbatim(text: str, resp: int) -> bytes:
    """Text for people: a verbatim string where the protocol has one."""
    data = text.encode()
    return b"=%d\r\ntxt:%s\r\n" % (len(data) + 4, data) if resp == 3 else bulk(data)


def encode(value: Value, resp: int) -> bytes:
    """Strings and bytes as bulk strings, dicts as maps (flat arrays in RESP2)."""
    if value is None:
        return b"_\r\n" if resp == 3 else b"$-1\r\n"
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, str):
        return bulk(value.encode())
    if isinstance(value, bytes):
        return bulk(value)
    if isinstance(value, list):
        return b"*%d\r\n" % len(value) + b"".join(encode(item, resp) for item in value)
    head = b"%%%d\r\n" % len(value) if resp == 3 else b"*%d\r\n" % (2 * len(value))
    return head + b"".join(encode(key, resp) + encode(item, resp) for key, item in value.items())


def set_head(count: int, resp: int) -> bytes:
    """The header of a set of `count` replies (an array in RESP2)."""
    return b"~%d\r\n" % count if resp == 3 else b"*%d\r\n" % count


def map_head(pairs: int, resp: int) -> bytes:
    """The header of a map of `pairs` pairs of replies (a flat array in RESP2)."""
    return b"%%%d\r\n" % pairs if resp == 3 else b"*%d\r\n" % (2 * pairs)


def double(value: float, resp: int) -> bytes:
    """As Redis 7.0 writes it: 17 digits; a bulk string in RESP2."""
    text = format(value, ".17g").encode()
    return b",%s\r\n" % text if resp == 3 else bulk(text)


def status_set(words: list[str], resp: int) -> bytes:
    """Flags as COMMAND INFO gives them: a set of simple strings."""
    head = b"~%d\r\n" if resp == 3 else b"*%d\r\n"
    return head % len(words) + b"".join(f"+{word}\r\n".encode() for word in words)


def decode(data: bytes) -> Reply:
    """One whole RESP2 reply."""
    value, end = _decode(data, 0)
    assert end == len(data), "one reply, whole"
    return value


def _decode(data: bytes, at: int) -> tuple[Reply, int]:
    end = data.index(b"\r\n", at)
    kind, line, after = data[at : at + 1], data[at + 1 : end], end + 2
    if kind == b"+":
        return Simple(line.decode()), after
    if kind == b"-":
        return Error(line.decode()), after
    if kind == b":":
        return int(line), after
    if kind == b"$":
        n = int(line)
        return (None, after) if n < 0 else (data[after : after + n], after + n + 2)
    assert kind == b"*", f"unexpected reply type {kind!r}"
    items: list[Value] = []
    for _ in range(int(line)):
        item, after = _decode(data, after)
        assert not isinstance(item, Simple | Error)
        items.append(item)
    return items, after
