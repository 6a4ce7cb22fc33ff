"""The admin endpoints as an ASGI application: /livez, /readyz, /metrics, /status.

Invariant: every answer is computed from facts read for that request; nothing here changes the node. Health answers are
plain text with one line per check, so that a probe's log can be read by a person. Who may ask is guard.py's; only
details of readiness are left out here for who may not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from nodedb_node.admin.exposition import NodeCollector
from nodedb_node.admin.facts import NodeFacts
from nodedb_node.admin.guard import TRUSTED
from nodedb_node.admin.loops import LoopMetrics
from nodedb_node.admin.readiness import Check, excluded, readiness
from nodedb_node.admin.status import Document

INDEX = """nodedb-node
/livez    200 while the control process turns its loop
/readyz   200 while the node serves; ?verbose shows each check, ?exclude=NAME leaves one out
/metrics  Prometheus metrics
/status   the status document, JSON
"""


class Endpoints:
    """The answers; `facts` reads the node without what processes use, `measured` with it, `document` is the status."""

    def __init__(
        self,
        facts: Callable[[], NodeFacts],
        measured: Callable[[], NodeFacts],
        document: Callable[[], Document],
        loops: Callable[[], Iterable[LoopMetrics]],
    ) -> None:
        self._facts = facts
        self._document = document
        self._metrics = CollectorRegistry(auto_describe=False)
        self._metrics.register(NodeCollector(measured, loops))

    async def index(self, _: Request) -> Response:
        return PlainTextResponse(INDEX)

    async def live(self, _: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(self, request: Request) -> Response:
        names = frozenset(name for text in request.query_params.getlist("exclude") for name in text.split(",") if name)
        checks = readiness(self._facts())
        counted = excluded(checks, names)
        ok = all(check.ok for check in counted)
        verbose = request.scope.get(TRUSTED, False) and ("verbose" in request.query_params or not ok)
        text = _verbose(checks, names, ok) if verbose else "ok\n" if ok else "not ready\n"
        return PlainTextResponse(text, status_code=200 if ok else 503)

    async def metrics(self, request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._metrics), media_type=None, headers={"content-type": content_type})

    async def status(self, _: Request) -> Response:
        return Response(msgspec.json.encode(self._document()), media_type="application/json")


def _verbose(checks: tuple[Check, ...], names: frozenset[str], ok: bool) -> str:
    lines = []
    for check in checks:
        if check.name in names:
            lines.append(f"[ ] {check.name} excluded")
        else:
            lines.append(f"[+] {check.name} ok" if check.ok else f"[-] {check.name} failed: {check.detail}")
    lines += [f"[?] {name} is not a check" for name in sorted(names - {check.name for check in checks})]
    lines.append("ready" if ok else "not ready")
    return "\n".join(lines) + "\n"


def application(endpoints: Endpoints) -> Starlette:
    """The ASGI application."""
    return Starlette(
        routes=[
            Route("/", endpoints.index),
            Route("/livez", endpoints.live),
            Route("/readyz", endpoints.ready),
            Route("/metrics", endpoints.metrics),
            Route("/status", endpoints.status),
        ]
    )
