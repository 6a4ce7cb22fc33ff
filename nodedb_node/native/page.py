"""csrc/page.h: the routing table in shared memory, written by one process and read by all. World file.

Invariant: a table is published whole or not at all; a reader always holds one whole table. Lookups of single keys are
made in C; Python reads whole tables, to describe the cluster.
"""

from collections.abc import Sequence
from typing import Protocol

from nodedb_node._native import ffi
from nodedb_node._native import lib as _lib
from nodedb_node.ids import Group, Worker
from nodedb_node.native.shm import Pointer, SharedMemory, check
from nodedb_node.routing.places import VSHARDS
from nodedb_node.routing.table import Route


class _Lib(Protocol):
    """The functions used here, as csrc/page.h declares them."""

    ND_ROUTE_NONE: int
    ND_ROUTE_SERVING: int

    def nd_page_open(self, shm: Pointer, out: Pointer) -> int: ...
    def nd_page_close(self, page: Pointer) -> None: ...
    def nd_page_refresh(self, page: Pointer) -> int: ...
    def nd_page_version(self, page: Pointer) -> int: ...
    def nd_page_routes(self, page: Pointer) -> Pointer: ...
    def nd_page_write(self, shm: Pointer, routes: Pointer) -> int: ...


lib: _Lib = _lib


def write(shm: SharedMemory, routes: Sequence[Route]) -> int:
    """Publish a table; the caller is the only writer. Returns its version."""
    assert len(routes) == VSHARDS
    table = ffi.new("nd_route[]", VSHARDS)
    for row, route in zip(table, routes, strict=True):
        row.epoch, row.node, row.group, row.worker = route.epoch, route.node, route.group, route.worker
        row.state = lib.ND_ROUTE_SERVING if route.serving else lib.ND_ROUTE_NONE
    return lib.nd_page_write(shm.handle, table)


class Page:
    """A reader; its handle is also what C looks routes up in."""

    def __init__(self, shm: SharedMemory) -> None:
        out = ffi.new("nd_page **")
        check(lib.nd_page_open(shm.handle, out), "routing page")
        self.handle: Pointer = out[0]
        self._version = -1
        self._routes: list[Route] = []

    def close(self) -> None:
        lib.nd_page_close(self.handle)
        self.handle = ffi.NULL

    @property
    def version(self) -> int:
        """Of the newest table; 0 = none was written yet."""
        lib.nd_page_refresh(self.handle)
        return lib.nd_page_version(self.handle)

    def routes(self) -> list[Route]:
        """The newest table, as long as it is one; made anew only when it changed."""
        version = self.version
        if version != self._version:
            table = lib.nd_page_routes(self.handle)
            serving = lib.ND_ROUTE_SERVING
            rows = (table[vshard] for vshard in range(VSHARDS))
            self._routes = [
                Route(Group(row.group), row.node, Worker(row.worker), row.epoch, row.state == serving) for row in rows
            ]
            self._version = version
        return self._routes
