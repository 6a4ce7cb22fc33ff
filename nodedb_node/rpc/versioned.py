"""Payloads that outlive a connection (stored, mirrored) carry the version of their own meaning.

Invariant: bytes without the mark, of version 0, or of a version this code does not have are told apart, and none is
guessed at: a replica that lacks a version stops that group instead. Layout, little-endian: mark u8, flags u8,
version u16, payload.
"""

from __future__ import annotations

import struct

from msgspec import Struct

MARK = 0xD7
HEADER = struct.Struct("<BBH")


class NotVersioned(ValueError):
    """The bytes were not wrapped by wrap()."""


class UnknownVersion(Exception):
    """Wrapped by newer code (or by code whose versions were retired): nothing may be done with the payload here."""

    def __init__(self, version: int, oldest: int, newest: int) -> None:
        super().__init__(f"version {version}, this code has {oldest}..{newest}: upgrade before you go on")
        self.version = version


class Versioned(Struct, frozen=True, gc=False):
    version: int
    payload: bytes


def wrap(version: int, payload: bytes) -> bytes:
    assert 0 < version <= 0xFFFF
    return HEADER.pack(MARK, 0, version) + payload


def unwrap(raw: bytes, oldest: int, newest: int) -> Versioned:
    """The payload of a version in oldest..newest; NotVersioned or UnknownVersion otherwise."""
    if len(raw) < HEADER.size:
        raise NotVersioned(f"{len(raw)} bytes")
    mark, flags, version = HEADER.unpack_from(raw)
    if mark != MARK or flags != 0 or version == 0:
        raise NotVersioned(raw[: HEADER.size].hex())
    if not oldest <= version <= newest:
        raise UnknownVersion(version, oldest, newest)
    return Versioned(version, raw[HEADER.size :])
