"""What a handler may know and do: the connection it answers, the node it is part of, calls to workers.

Invariant: handlers see the world through this protocol only, so they run in tests without a node.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from nodedb_node.routing.view import Member
from workers.acl.access import Access


@dataclass(slots=True)
class Session:
    """What CLIENT and HELLO set; the connection's number and generation find it."""

    gen: int
    name: bytes = b""
    lib_name: bytes = b""
    lib_ver: bytes = b""


class Context(Protocol):
    """One command of one connection."""

    session: Session
    conn: int
    worker: int
    workers: int
    groups: int
    access: Access  # the worker's users
    closing: bool  # set by the handler: close once the reply is written

    @property
    def resp(self) -> int: ...
    def set_resp(self, resp: int) -> None: ...
    def set_readonly(self, readonly: bool) -> None: ...
    @property
    def user(self) -> bytes: ...
    @property
    def authenticated(self) -> bool: ...
    async def authenticate(self, name: bytes, password: bytes, where: str) -> None:
        """Act as this user from now on; raises Denied."""

    def forget_user(self) -> None:
        """Act as a new connection does."""

    def scope(self) -> range:
        """Workers that node-wide commands cover: all on the shared port, this one on its own port."""

    async def call(self, worker: int, vshard: int, argv: list[bytes]) -> bytes:
        """Run an internal command in a worker; its RESP2 reply."""

    def members(self) -> list[Member]: ...
    def client_line(self) -> str:
        """CLIENT INFO's line."""

    def settings(self) -> Mapping[str, str]:
        """What CONFIG GET knows, by Redis's names."""

    def info(self) -> Mapping[str, Mapping[str, object]]:
        """INFO's sections, in order."""
