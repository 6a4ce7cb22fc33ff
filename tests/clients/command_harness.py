"""Runs commands through the C command layer on a store in a directory, without a node around it.

The shared library is compiled once per change of the sources. Commands that Python answers raise here.
"""

import ctypes
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from workers.commands.table import ROWS

REPO = Path(__file__).resolve().parents[2]
FLAGS = ("-std=gnu11", "-O1", "-g", "-msse4.2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Wno-unused-parameter")


def _sources() -> list[Path]:
    here = Path(__file__).with_name("command_harness.c")
    return [here, *sorted((REPO / "csrc").glob("*.c"))]


def build_library() -> Path:
    """Path of the compiled library; compiled only when its sources have changed."""
    digest = hashlib.sha256()
    for path in [*_sources(), *sorted((REPO / "csrc").glob("*.h"))]:
        digest.update(path.read_bytes())
    target = Path(tempfile.gettempdir()) / f"nodedb-command-harness-{digest.hexdigest()[:16]}.so"
    if not target.exists():
        partial = target.with_suffix(f".{os.getpid()}")
        sources = [str(path) for path in _sources()]
        include = f"-I{REPO / 'csrc'}"
        libraries = ("-llmdb", "-luring", "-lssl", "-lcrypto", "-lpthread", "-lm")
        subprocess.run(["gcc", *FLAGS, include, "-o", str(partial), *sources, *libraries], check=True)
        partial.rename(target)
    return target


class Harness:
    """One store and one command table; close() or use as a context."""

    def __init__(self, directory: Path) -> None:
        self._lib = ctypes.CDLL(str(build_library()))
        self._lib.harness_open.restype = ctypes.c_void_p
        self._lib.harness_table.restype = ctypes.c_void_p
        self._lib.harness_run.restype = ctypes.c_int64
        handle = self._lib.harness_open(str(directory).encode())
        if handle is None:
            raise OSError(f"no store could be opened in {directory}")
        self._handle = ctypes.c_void_p(handle)
        self._fill_table()

    def _fill_table(self) -> None:
        table = ctypes.c_void_p(self._lib.harness_table(self._handle))
        for row in ROWS:
            numbers = [ctypes.c_int16(n) for n in row.keys]
            rc = self._lib.nd_cmdtab_add(
                table,
                row.name.encode(),
                ctypes.c_uint16(row.id),
                ctypes.c_int16(row.arity),
                ctypes.c_uint32(int(row.flags)),
                *numbers,
                row.function.encode(),
            )
            assert rc == 0, (row.name, rc)

    def run(self, *argv: bytes, now_ms: int = 1_000_000, seed: int = 1, resp: int = 2) -> bytes:
        """The RESP bytes of one command's reply."""
        count = len(argv)
        pointers = (ctypes.c_char_p * count)(*argv)
        lengths = (ctypes.c_uint32 * count)(*map(len, argv))
        out = ctypes.c_char_p()
        length = self._lib.harness_run(
            self._handle,
            ctypes.c_uint32(count),
            pointers,
            lengths,
            ctypes.c_int64(now_ms),
            ctypes.c_uint64(seed),
            ctypes.c_uint8(resp),
            ctypes.byref(out),
        )
        if length < 0:
            raise OSError(-length, os.strerror(-length))
        return ctypes.string_at(out, length)

    def slot_of(self, key: bytes) -> int:
        """The key's slot."""
        return int(self._lib.nd_slot_of(key, ctypes.c_uint32(len(key))))

    def close(self) -> None:
        """Closes the store; the directory is the caller's."""
        self._lib.harness_close(self._handle)

    def __enter__(self) -> "Harness":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
