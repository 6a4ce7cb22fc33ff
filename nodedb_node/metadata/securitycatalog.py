"""The SecurityStore of one node: rows in a table of its catalog.

Invariant: one synced transaction per `change`; the generation is checked and moved in the same transaction as the
rows, so processes that write at the same time cannot both succeed on one state, and a crash leaves all of a change or
nothing. It decides nothing: security.py does. Rows of one key format are read by every later version; unknown fields
are skipped. World file.

The generation stands also in a file beside the catalog, written before the commit that it names: whoever asks every
second must not wait for a disk that hangs, and a read of LMDB may (it marks a page of the lock file). The file is only
a hint to look: it is one ahead while a change is being committed, and after a death at just that moment until the next
change.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

import lmdb
import msgspec

from nodedb_node.errors import UNREADABLE, Exit, StartError
from nodedb_node.metadata.security import (
    EMPTY,
    AuthorityRow,
    Change,
    LeafRow,
    NodeRow,
    SecurityState,
    apply_all,
)

_TABLE = b"security"
_GENERATION = b"generation"
_AUTHORITY, _LEAF, _NODE = b"authority/", b"leaf/", b"node/"


class CatalogSecurity:
    """See SecurityStore. One thread at a time; several processes may share the file."""

    def __init__(self, environment: lmdb.Environment) -> None:
        self._environment = environment
        self._table = environment.open_db(_TABLE)
        self._read = EMPTY
        self._hint = os.path.join(environment.path(), "security-generation")
        self._write_hint(self.read().generation)

    def generation(self) -> int:
        with open(self._hint, "rb") as file:
            return int.from_bytes(file.read(8), "little")

    def _write_hint(self, generation: int) -> None:
        descriptor = os.open(self._hint, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, generation.to_bytes(8, "little"), 0)
        finally:
            os.close(descriptor)

    def read(self) -> SecurityState:
        with self._environment.begin(db=self._table) as view:
            return self._state(view)

    def change(self, expected: int, changes: Sequence[Change]) -> SecurityState:
        try:
            return self._change(expected, changes)
        except (lmdb.Error, OSError) as error:
            self._correct_hint()
            line = f"the catalog cannot be written: {error}; is the disk full?"
            raise StartError(Exit.IO, line) from error

    def _change(self, expected: int, changes: Sequence[Change]) -> SecurityState:
        with self._environment.begin(db=self._table, write=True) as transaction:
            before = self._state(transaction)
            after = apply_all(before, expected, changes)
            old, new = rows(before), rows(after)
            for key in old.keys() - new.keys():
                transaction.delete(key)
            for key, row in new.items():
                if old.get(key) != row:
                    transaction.put(key, row)
            self._write_hint(after.generation)
        self._read = after
        return after

    def _correct_hint(self) -> None:
        """Name no state that never was; under the lock of writers, so that what another process wrote stays named."""
        # Where this fails too, what failed first is told, and readers look once too often.
        with contextlib.suppress(lmdb.Error, OSError), self._environment.begin(db=self._table, write=True) as view:
            self._write_hint(_generation(view))

    def _state(self, view: lmdb.Transaction) -> SecurityState:
        if _generation(view) != self._read.generation:
            with view.cursor() as cursor:
                found = {bytes(key): bytes(row) for key, row in cursor}
            try:
                self._read = state(found)
            except UNREADABLE as error:
                line = f"the catalog's certificates are damaged ({error}); restore the whole directory from a backup"
                raise StartError(Exit.DATA, line) from error
        return self._read


def _generation(view: lmdb.Transaction) -> int:
    found = view.get(_GENERATION)
    return 0 if found is None else msgspec.msgpack.decode(bytes(found), type=int)


def rows(of: SecurityState) -> dict[bytes, bytes]:
    """A state as keys and values."""
    encode = msgspec.msgpack.encode
    found = {_AUTHORITY + key: encode(row) for key, row in of.authorities.items()}
    found |= {_LEAF + serial.encode(): encode(row) for serial, row in of.leaves.items()}
    found |= {_NODE + node_id.encode(): encode(row) for node_id, row in of.nodes.items()}
    return found | {_GENERATION: encode(of.generation)}


def state(found: dict[bytes, bytes]) -> SecurityState:
    """What `rows` made."""
    decode = msgspec.msgpack.decode
    authorities = [decode(row, type=AuthorityRow) for key, row in found.items() if key.startswith(_AUTHORITY)]
    leaves = [decode(row, type=LeafRow) for key, row in found.items() if key.startswith(_LEAF)]
    nodes = [decode(row, type=NodeRow) for key, row in found.items() if key.startswith(_NODE)]
    return SecurityState(
        generation=decode(found.get(_GENERATION, b"\0"), type=int),
        authorities={row.fingerprint: row for row in authorities},
        leaves={row.serial: row for row in leaves},
        nodes={row.node_id: row for row in nodes},
    )
