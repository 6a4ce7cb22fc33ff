"""Pure functions of the C extension: no call here touches the world, so cores may use them."""

from nodedb_node._native import lib


def slot_of_key(key: bytes) -> int:
    """CRC16 of the key, or of its hash tag, modulo 16384 (csrc/slot.h)."""
    return int(lib.nd_slot_of(key, len(key)))


def crc32c(data: bytes, crc: int = 0) -> int:
    """CRC-32C, continued from `crc` (csrc/crc32c.h)."""
    return int(lib.nd_crc32c(crc, data, len(data)))
