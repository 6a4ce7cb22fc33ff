"""The endpoints, asked through ASGI without a socket."""

from collections.abc import Callable

import httpx
import msgspec
import pytest

from nodedb_node.admin.app import Endpoints, application
from nodedb_node.admin.facts import NodeFacts
from nodedb_node.admin.guard import Guard
from nodedb_node.admin.loops import LoopRegistry
from nodedb_node.admin.status import Document, document
from tests.admin.example import node

Ask = Callable[..., httpx.Response]


def asking(facts: NodeFacts) -> Ask:
    endpoints = Endpoints(lambda: facts, lambda: facts, lambda: document(facts, None), LoopRegistry().all)

    def ask(path: str, **options: object) -> httpx.Response:
        import asyncio

        async def once() -> httpx.Response:
            guarded = Guard(application(endpoints), lambda _: False, lambda _: None)
            transport = httpx.ASGITransport(app=guarded)  # its client is 127.0.0.1
            async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
                return await client.request(str(options.get("method", "GET")), path, headers=options.get("headers"))  # type: ignore[arg-type]

        return asyncio.run(once())

    return ask


def test_live_even_when_not_ready() -> None:
    assert asking(node(draining=True))("/livez").status_code == 200


def test_ready_is_short_unless_asked() -> None:
    ask = asking(node())
    assert ask("/readyz").text == "ok\n"
    lines = ask("/readyz?verbose").text.splitlines()
    assert lines[0] == "[+] drain ok"
    assert lines[-1] == "ready"
    assert "[+] worker-1 ok" in lines


def test_not_ready_is_503_with_reasons() -> None:
    answer = asking(node(draining=True))("/readyz")
    assert answer.status_code == 503
    assert answer.text.splitlines()[0].startswith("[-] drain failed: the node is draining")
    assert answer.text.splitlines()[-1] == "not ready"


@pytest.mark.parametrize("query", ["exclude=drain&exclude=disk", "exclude=drain,disk", "exclude=disk,drain,&verbose"])
def test_excluded_checks_do_not_count(query: str) -> None:
    answer = asking(node(draining=True, disk=None))(f"/readyz?{query}")
    assert answer.status_code == 200


def test_excluding_is_shown_and_an_unknown_name_is_told() -> None:
    lines = asking(node(draining=True))("/readyz?verbose&exclude=drain&exclude=typo").text.splitlines()
    assert "[ ] drain excluded" in lines
    assert "[?] typo is not a check" in lines


def test_metrics_in_the_format_asked_for() -> None:
    ask = asking(node())
    plain = ask("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    assert 'nodedb_commands_total{core="0"} 0.0' in plain.text
    opened = ask("/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0"})
    assert opened.headers["content-type"].startswith("application/openmetrics-text")
    assert opened.text.endswith("# EOF\n")


def test_status_is_the_document() -> None:
    answer = asking(node())("/status")
    assert answer.headers["content-type"] == "application/json"
    assert msgspec.json.decode(answer.content, type=Document).clients_port == 6379


def test_index_names_the_endpoints() -> None:
    text = asking(node())("/").text
    assert all(path in text for path in ("/livez", "/readyz", "/metrics", "/status"))


@pytest.mark.parametrize(("method", "path", "code"), [("GET", "/nothing", 404), ("POST", "/livez", 405)])
def test_anything_else_is_refused(method: str, path: str, code: int) -> None:
    assert asking(node())(path, method=method).status_code == code
