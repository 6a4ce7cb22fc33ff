"""csrc/metrics.h: the layout of a process's counter block, and its decoding from bytes.

Invariant: the layout is asked of the compiler, so a word added to the header appears here by itself. Pure: it reads
the bytes it is given; where they lie in shared memory is shm's part.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from msgspec import Struct
from msgspec.structs import replace

from nodedb_node._native import ffi, lib

_BLOCK = ffi.typeof("nd_metrics")
_HISTOGRAM = ffi.typeof("nd_hist")
_WORD = ffi.typeof("uint64_t")
_GROUP = ffi.typeof("nd_group_row")
_HALT = ffi.typeof("nd_halt_row")

BLOCK_BYTES: int = ffi.sizeof(_BLOCK)
WORDS: Mapping[str, int] = {name: field.offset for name, field in _BLOCK.fields if field.type is _WORD}
HISTOGRAMS: Mapping[str, int] = {name: field.offset for name, field in _BLOCK.fields if field.type is _HISTOGRAM}
_BLOCK_WORDS = struct.Struct(f"={BLOCK_BYTES // 8}Q")
_HALT_WORDS = struct.Struct("=2Q")
_HISTOGRAM_WORDS: int = ffi.sizeof(_HISTOGRAM) // 8
_GROUPS_AT: int = next(field.offset for name, field in _BLOCK.fields if name == "groups") // 8
_GROUP_WORDS: int = ffi.sizeof(_GROUP) // 8
_HALTS_AT: int = next(field.offset for name, field in _BLOCK.fields if name == "halts")
_HALT_BYTES: int = ffi.sizeof(_HALT)
_WHY_AT: int = next(field.offset for name, field in _HALT.fields if name == "why")
_HALTS_MAX: int = lib.ND_HALTS_MAX


STEPS = 4  # buckets per power of two


def bucket_start(bucket: int) -> int:
    """The smallest value that nd_hist_add counts in this bucket or a later one."""
    octave, step = divmod(bucket, STEPS)
    return bucket if octave == 0 else (STEPS + step) << (octave - 1)


def bucket_of(value: int) -> int:
    """Where nd_hist_add counts the value, were there no last bucket."""
    octave = max(0, value.bit_length() - 2)
    return value if octave == 0 else STEPS * octave + (value >> (octave - 1)) - STEPS


class Histogram(Struct, frozen=True):
    """Counts by size: buckets[i] holds v with bucket_start(i) <= v < bucket_start(i + 1); the last is open."""

    count: int
    sum: int
    buckets: tuple[int, ...]

    def minus(self, earlier: Histogram) -> Histogram:
        """What was added since `earlier`; everything, when the process was restarted in between."""
        if earlier.count > self.count:
            return self
        buckets = tuple(now - before for now, before in zip(self.buckets, earlier.buckets, strict=True))
        return Histogram(self.count - earlier.count, self.sum - earlier.sum, buckets)

    def quantile(self, share: float) -> int:
        """An upper bound of the value below which `share` of the values lie; 0 when there are none."""
        assert 0.0 <= share <= 1.0
        total = sum(self.buckets)
        seen = 0
        for bucket, count in enumerate(self.buckets):
            seen += count
            if total and seen >= share * total:
                return bucket_start(bucket + 1) - 1
        return 0


class GroupRow(Struct, frozen=True):
    """A Raft group where a replica of it is; role and reason are numbers of multiraft.messages. why: of a halted one,
    in words, where there was room for them."""

    role: int
    term: int
    leader: int
    commit: int
    applied: int
    last: int
    reason: int
    why: str = ""


class Block(Struct, frozen=True):
    """One process's counters by the names of the header. Each word is whole; two words may be of different moments."""

    values: Mapping[str, int]
    histograms: Mapping[str, Histogram]
    groups: Mapping[int, GroupRow] = {}


def decode(raw: bytes | memoryview) -> Block:
    """The block that begins at the first byte of `raw`."""
    words = _BLOCK_WORDS.unpack_from(raw)
    values = {name: words[offset // 8] for name, offset in WORDS.items()}
    histograms = {}
    for name, offset in HISTOGRAMS.items():
        count, total, *buckets = words[offset // 8 : offset // 8 + _HISTOGRAM_WORDS]
        histograms[name] = Histogram(count, total, tuple(buckets))
    held = words[_GROUPS_AT::_GROUP_WORDS]
    groups = {}
    for group, here in enumerate(held):
        if here:
            at = _GROUPS_AT + group * _GROUP_WORDS
            groups[group] = GroupRow(*words[at + 1 : at + _GROUP_WORDS])
    for group, why in _halts(raw):
        if group in groups:
            groups[group] = replace(groups[group], why=why)
    return Block(values, histograms, groups)


def _halts(raw: bytes | memoryview) -> Iterator[tuple[int, str]]:
    """(group, why) of halted groups."""
    for at in range(_HALTS_AT, _HALTS_AT + _HALTS_MAX * _HALT_BYTES, _HALT_BYTES):
        held, group = _HALT_WORDS.unpack_from(raw, at)
        if held:
            text = bytes(raw[at + _WHY_AT : at + _HALT_BYTES])
            yield group, text.partition(b"\0")[0].decode(errors="replace")
