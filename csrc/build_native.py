"""Builds the one extension module, nodedb_node._native, from csrc/*.c.

The parts of the headers between `cffi:begin` and `cffi:end` are the only prototypes: cffi parses what the compiler
sees, so a signature is written once. Headers are read in the order of their includes.
"""

import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
PART = re.compile(r"/\* cffi:begin \*/(.*?)/\* cffi:end \*/", re.DOTALL)
INCLUDE = re.compile(r'^#include "(\w+\.h)"', re.MULTILINE)


def headers_in_include_order() -> list[Path]:
    """Every header once, each after the headers it includes."""
    ordered: dict[Path, None] = {}

    def visit(header: Path) -> None:
        for name in INCLUDE.findall(header.read_text()):
            visit(HERE / name)
        ordered.setdefault(header)

    for header in sorted(HERE.glob("*.h")):
        visit(header)
    return list(ordered)


ffi = FFI()
included = []
for path in headers_in_include_order():
    parts = PART.findall(path.read_text())
    if parts:
        ffi.cdef("\n".join(parts))
        included.append(f'#include "{path.name}"')

ffi.set_source(
    "nodedb_node._native",
    "\n".join(included),
    sources=sorted(f"csrc/{path.name}" for path in HERE.glob("*.c")),
    include_dirs=["csrc"],
    libraries=["lmdb", "uring", "ssl", "crypto", "pthread", "m"],
    extra_compile_args=["-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-msse4.2"],
)
