"""The durable catalog of one node: whose directory this is, how often it was started, and the settings changed at
run time.

Invariants: one synced LMDB transaction per change, so a crash leaves the state before or after it; the
`bootstrapped` marker is written in a transaction of its own after everything else of the bootstrap, so a catalog
without it was never in use and may be filled again; a catalog with it is never bootstrapped again and never accepts
another identity or an older generation.

Opened by the control process, through py-lmdb and always with the 0.9 engine (`lib_version=0`): the wheel
carries the 1.0 engine too, whose file format the 0.9 library under the workers' stores cannot read. The verb `cert`
may open it beside control: LMDB lets one process write at a time, and control asks for the generation. It deliberately
never maps the file writable (a full disk would then be a SIGBUS) and holds nothing that the workers' logs hold.
World file.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

import lmdb
import msgspec

from nodedb_node.errors import Exit, StartError
from nodedb_node.metadata.limits import USER_BYTES_MAX, USER_NAME_BYTES_MAX
from nodedb_node.metadata.securitycatalog import CatalogSecurity

FORMAT = 1
ENGINE_MAJOR = 0
MAP_BYTES = 64 << 20
TABLES_MAX = 8
NAME_BYTES_MAX = 255
VALUE_BYTES_MAX = 64 << 10

_NODE = b"node"
_SETTINGS = b"settings"
_USERS = b"users"
_USERS_VERSION = b"users version"
_FORMAT = b"format"
_IDENTITY = b"identity"
_GENERATION = b"generation"
_BOOTSTRAPPED = b"bootstrapped"


class CatalogError(StartError):
    """The catalog cannot be used as it is; the text says what to do."""

    def __init__(self, line: str) -> None:
        super().__init__(Exit.DATA, line)


class CannotStore(Exception):
    """A change was refused by the disk or for lack of room; nothing of it is there."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who the data directory belongs to."""

    cluster_id: str
    node_id: str
    groups: int


class Catalog:
    """An open catalog. One thread at a time; every change is durable when its method returns."""

    def __init__(self, environment: lmdb.Environment, path: Path) -> None:
        self._environment = environment
        self._path = path
        self._node = environment.open_db(_NODE)
        self._settings = environment.open_db(_SETTINGS)
        self._users = environment.open_db(_USERS)
        self._check_format()

    @classmethod
    def open(cls, path: Path) -> Catalog:
        """Open or create the catalog in directory `path`; raises CatalogError, never repairs."""
        try:
            path.mkdir(mode=0o700, exist_ok=True)
            environment = lmdb.open(
                str(path),
                map_size=MAP_BYTES,
                max_dbs=TABLES_MAX,
                max_readers=16,
                mode=0o600,
                writemap=False,
                metasync=True,
                sync=True,
                lib_version=ENGINE_MAJOR,
            )
            for directory in (path, path.parent):
                _sync_directory(directory)
            return cls(environment, path)
        except (lmdb.Error, OSError) as error:
            raise CatalogError(
                f"catalog {path} cannot be opened: {error}; restore the directory from a backup or start with a new one"
            ) from error

    def close(self) -> None:
        """Release the files; closing twice is allowed."""
        self._environment.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def bootstrapped(self) -> bool:
        """Whether this catalog has been in use."""
        return self._get(self._node, _BOOTSTRAPPED) is not None

    @property
    def engine(self) -> str:
        """The version of the LMDB engine that holds the file, such as 0.9.36."""
        return ".".join(str(part) for part in self._environment.lib_version())

    def claim(self, identity: Identity, generation: int) -> None:
        """Make the catalog that of `identity` at start number `generation`: fills it once, checks it ever after."""
        if self.bootstrapped:
            self._check(identity, generation)
            self._put_generation(generation)
            return
        with self._environment.begin(db=self._node, write=True) as change:
            change.put(_FORMAT, msgspec.msgpack.encode(FORMAT))
            change.put(_IDENTITY, msgspec.msgpack.encode(identity))
            change.put(_GENERATION, msgspec.msgpack.encode(generation))
        with self._environment.begin(db=self._node, write=True) as change:
            change.put(_BOOTSTRAPPED, b"1")

    def identity(self) -> Identity | None:
        """Whose catalog this is; None before the bootstrap."""
        found = self._get(self._node, _IDENTITY)
        return None if found is None else msgspec.msgpack.decode(found, type=Identity)

    def generation(self) -> int:
        """The generation of the last claim; 0 before the bootstrap."""
        found = self._get(self._node, _GENERATION)
        return 0 if found is None else msgspec.msgpack.decode(found, type=int)

    def settings(self) -> dict[str, str]:
        """Every setting that was set at run time."""
        with self._environment.begin(db=self._settings) as view, view.cursor() as cursor:
            return {bytes(name).decode(): bytes(value).decode() for name, value in cursor}

    def set(self, name: str, value: str) -> None:
        """Set one setting, durably."""
        key, data = name.encode(), value.encode()
        if not 0 < len(key) <= NAME_BYTES_MAX or len(data) > VALUE_BYTES_MAX:
            raise ValueError(
                f"setting {name[:40]!r}: name takes 1..{NAME_BYTES_MAX} B, value at most {VALUE_BYTES_MAX} B"
            )
        with self._environment.begin(db=self._settings, write=True) as change:
            change.put(key, data)

    def unset(self, name: str) -> bool:
        """Forget one setting, durably; False when it was not set."""
        with self._environment.begin(db=self._settings, write=True) as change:
            return change.delete(name.encode())

    def security(self) -> CatalogSecurity:
        """The certificates of the cluster; shares this catalog's file and life."""
        return CatalogSecurity(self._environment)

    def users(self) -> tuple[dict[bytes, bytes], int]:
        """The record of every user by name, and the version of the set; 0 = never changed."""
        with self._environment.begin(db=self._users) as view, view.cursor() as cursor:
            found = {bytes(key)[1:]: bytes(record) for key, record in cursor}
        version = self._get(self._node, _USERS_VERSION)
        return found, 0 if version is None else msgspec.msgpack.decode(version, type=int)

    def put_users(self, puts: list[tuple[bytes, bytes]], drops: list[bytes], version: int) -> None:
        """Store and forget users, and the version that the set has then, durably in one change; raises CannotStore."""
        for name, record in puts:
            if len(name) > USER_NAME_BYTES_MAX or len(record) > USER_BYTES_MAX:
                raise ValueError(f"user {name[:40]!r}: name takes {USER_NAME_BYTES_MAX} B, record {USER_BYTES_MAX} B")
        try:
            with self._environment.begin(write=True) as change:
                for name, record in puts:
                    change.put(b"u" + name, record, db=self._users)  # LMDB takes no empty key, Redis has an empty name
                for name in drops:
                    change.delete(b"u" + name, db=self._users)
                change.put(_USERS_VERSION, msgspec.msgpack.encode(version), db=self._node)
        except (lmdb.Error, OSError) as error:
            raise CannotStore(f"users cannot be stored: {error}") from error

    def _get(self, table: lmdb._Database, key: bytes) -> bytes | None:
        with self._environment.begin(db=table) as view:
            found = view.get(key)
        return None if found is None else bytes(found)

    def _put_generation(self, generation: int) -> None:
        if generation == self.generation():
            return
        with self._environment.begin(db=self._node, write=True) as change:
            change.put(_GENERATION, msgspec.msgpack.encode(generation))

    def _check_format(self) -> None:
        found = self._get(self._node, _FORMAT)
        written = FORMAT if found is None else msgspec.msgpack.decode(found, type=int)
        if written != FORMAT:
            raise CatalogError(
                f"catalog {self._path} has format {written}, this version reads {FORMAT}: use the version that wrote it"
            )

    def _check(self, identity: Identity, generation: int) -> None:
        known = self.identity()
        if known != identity:
            raise CatalogError(
                f"catalog {self._path} belongs to {known}, the data directory to {identity}: "
                "parts of two directories were mixed; restore all of it from one backup"
            )
        if generation < self.generation():
            raise CatalogError(
                f"catalog {self._path} has seen generation {self.generation()}, the data directory says {generation}: "
                "it was rolled back; restore the whole directory, not parts of it"
            )


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
