"""Who may ask the admin endpoints what: an ASGI layer before the application.

Invariant: from loopback everything may be asked. Everybody else needs the token, but for whether the node lives and is
ready, which is one word: load balancers ask it, and carry no secrets. What is refused never reaches the application.
The peer's own address counts, never a header that says where a request came from.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

OPEN_PATHS = frozenset({"/livez", "/readyz"})
TRUSTED = "nodedb.trusted"  # in the scope: details may be told
SCHEME = b"bearer "


class Guard:
    """`is_token` compares in constant time; `refused` is told the address of who was."""

    def __init__(self, app: ASGIApp, is_token: Callable[[bytes], bool], refused: Callable[[str], None]) -> None:
        self._app, self._is_token, self._refused = app, is_token, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        client = scope.get("client")
        address = str(client[0]) if client else ""
        trusted = loopback(address) or self._shows_token(scope)
        if trusted or scope["path"] in OPEN_PATHS:
            await self._app({**scope, TRUSTED: trusted}, receive, send)
            return
        self._refused(address)
        headers = {"www-authenticate": 'Bearer realm="nodedb-node"'}
        text = "from elsewhere than loopback this needs the admin token: Authorization: Bearer TOKEN\n"
        await PlainTextResponse(text, status_code=401, headers=headers)(scope, receive, send)

    def _shows_token(self, scope: Scope) -> bool:
        shown = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(shown) != 1 or shown[0][: len(SCHEME)].lower() != SCHEME:
            return False
        return self._is_token(shown[0][len(SCHEME) :].strip())


def loopback(address: str) -> bool:
    """Of an IPv4, IPv6 or mapped address; anything else is not."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback
