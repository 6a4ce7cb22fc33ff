"""A user in the byte form that csrc/acl.h reads. Pure."""

import struct

from workers.acl import commandset
from workers.acl.user import ALL, Selector, User

ENABLED, NOPASS = 1, 2
ALL_COMMANDS, ALL_KEYS = 1, 2
MAP_BYTES = 128


def compiled(user: User) -> bytes:
    flags = ENABLED * user.enabled | NOPASS * user.nopass
    head = struct.pack("<BH", flags, len(user.name)) + user.name + struct.pack("<H", len(user.selectors))
    return head + b"".join(_selector(selector) for selector in user.selectors)


def _selector(selector: Selector) -> bytes:
    flags = ALL_COMMANDS * (selector.commands == (ALL,)) | ALL_KEYS * selector.all_keys
    bits = commandset.allowed(selector.commands) & ((1 << MAP_BYTES * 8) - 1)
    parts = [struct.pack("<B", flags), bits.to_bytes(MAP_BYTES, "little"), struct.pack("<I", len(selector.patterns))]
    parts += [struct.pack("<BI", pattern.access, len(pattern.glob)) + pattern.glob for pattern in selector.patterns]
    firsts = commandset.first_arguments(selector.commands)
    parts += [struct.pack("<I", len(firsts)), *(struct.pack("<HI", id, len(word)) + word for id, word in firsts)]
    return b"".join(parts)
