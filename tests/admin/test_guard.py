"""Who may ask the admin endpoints what: loopback everything, others with the token, health for everybody in
one word."""

import asyncio
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from nodedb_node.admin.guard import TRUSTED, Guard, loopback
from nodedb_node.admin.token import AdminToken
from nodedb_node.errors import StartError

TOKEN = b"a-token-of-some-length"


def asked(path: str, client: str | None, *authorization: bytes) -> tuple[int, object]:
    """Status, and whether details may be told (None: it never reached the application)."""
    seen: list[object] = []
    statuses: list[int] = []
    refused: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope[TRUSTED])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: dict) -> None:  # type: ignore[type-arg]
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def receive() -> dict:  # type: ignore[type-arg]
        return {"type": "http.request"}

    headers = [(b"authorization", value) for value in authorization]
    headers.append((b"x-forwarded-for", b"127.0.0.1"))
    scope = {"type": "http", "path": path, "headers": headers, "client": (client, 1) if client else None}
    guard = Guard(app, lambda shown: shown == TOKEN, refused.append)
    asyncio.run(guard(scope, receive, send))  # type: ignore[arg-type]
    assert bool(refused) == (statuses == [401])
    return statuses[0], seen[0] if seen else None


@pytest.mark.parametrize("client", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_loopback_may_ask_everything(client: str) -> None:
    assert loopback(client)
    assert asked("/status", client) == (200, True)


@pytest.mark.parametrize("client", ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "", "localhost", None])
def test_others_need_the_token(client: str | None) -> None:
    for path in ("/", "/status", "/metrics", "/livez/", "/nosuch"):
        assert asked(path, client) == (401, None)
        assert asked(path, client, b"Bearer " + TOKEN) == (200, True)
        for wrong in (TOKEN, b"Basic " + TOKEN, b"Bearer", b"Bearer ", b"Bearer x" + TOKEN):
            assert asked(path, client, wrong) == (401, None)
        assert asked(path, client, b"Bearer " + TOKEN, b"Bearer " + TOKEN) == (401, None)


def test_everybody_may_ask_for_health_in_one_word() -> None:
    for path in ("/livez", "/readyz"):
        assert asked(path, "192.0.2.1") == (200, False)


def test_a_token_is_made_once_and_read_again_when_it_was_replaced(tmp_path: Path) -> None:
    token = AdminToken("", str(tmp_path))
    file = tmp_path / "admin.token"
    made = file.read_bytes().strip()
    assert file.stat().st_mode & 0o777 == 0o600 and len(made) == 64
    assert token.matches(made) and not token.matches(made[:-1]) and not token.matches(b"")
    assert AdminToken("", str(tmp_path)).matches(made)
    file.write_bytes(b"another-token-of-some-length\n")
    assert token.matches(b"another-token-of-some-length") and not token.matches(made)
    file.write_bytes(b"\n")
    assert not token.matches(b"") and token.matches(b"another-token-of-some-length")


def test_a_token_that_is_no_secret_ends_the_start(tmp_path: Path) -> None:
    short = tmp_path / "token"
    short.write_text("short\n")
    for path in (short, tmp_path / "nosuch"):
        with pytest.raises(StartError):
            AdminToken(str(path), str(tmp_path))
