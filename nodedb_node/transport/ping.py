"""Dials a lane, whoever it is, and measures the way: version, datagram size, round trips, bulk. World file.

Invariant: it comes as a tool's lane of the node whose credentials it has, so it takes no place of a running process;
everything has a deadline, and a refusal is the peer's own words. It changes nothing on either side.
"""

from __future__ import annotations

import asyncio
import secrets
import time

from msgspec import Struct

from nodedb_node import __version__
from nodedb_node.config import MIB
from nodedb_node.ids import ClusterId, NodeId
from nodedb_node.native.udp import Udp, bound
from nodedb_node.rpc.frame import Kind
from nodedb_node.rpc.hello import ANY_LANE, ANYONE, Local
from nodedb_node.rpc.messages import Type
from nodedb_node.rpc.status import AnyStatus, Status
from nodedb_node.transport.credentials.verify import PeerIdentity
from nodedb_node.transport.interface import Address, Answer, Arrival, BulkOffer, Full, Message, PeerDown, PeerUp
from nodedb_node.transport.quic import Credentials, Endpoint

CALL_MS = 2_000
SETTLE_S = 0.25  # for the probes of the datagram size
BODY = bytes(100)


class Refused(Exception):
    """No session: the peer's words, or what happened instead."""


class Report(Struct, frozen=True, kw_only=True):
    """What was found. Times are µs; bulk_bytes_per_s is None when it was not asked for."""

    peer: NodeId
    lane: int
    generation: int
    version: int
    software: str
    identity: PeerIdentity | None
    datagram_bytes: int
    connect_us: float
    round_trips_us: tuple[float, ...]
    bulk_bytes_per_s: float | None

    def quantile(self, share: float) -> float:
        times = sorted(self.round_trips_us)
        return times[min(len(times) - 1, int(len(times) * share))]


class Zeros:
    """interface.BulkSource."""

    def __init__(self, size: int) -> None:
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        return bytes(length)


class Pinger:
    """interface.Handlers of one dial."""

    def __init__(self, credentials: Credentials, cluster_id: ClusterId, node_id: NodeId, address: Address) -> None:
        self._address = address
        self._up: asyncio.Future[PeerUp] = asyncio.get_running_loop().create_future()
        host = "::" if ":" in address.host else "0.0.0.0"
        local = Local(
            cluster_id=cluster_id,
            node_id=node_id,
            generation=time.time_ns() // 1_000_000,
            nonce=secrets.token_bytes(16),
            lane=ANY_LANE,
            software=__version__,
        )
        udp = Udp(bound(host, 0), 8 * MIB)
        self._endpoint = Endpoint(asyncio.get_running_loop(), udp, credentials, local, self)
        self._hub = self._endpoint.hub

    def on_frame(self, arrival: Arrival) -> None:
        """A peer has nothing to tell to a tool."""

    def on_peer(self, event: PeerUp | PeerDown) -> None:
        if isinstance(event, PeerUp) and not self._up.done():
            self._up.set_result(event)

    def on_bulk(self, offer: BulkOffer) -> AnyStatus:
        raise AssertionError("nobody sends bulk to a tool")

    async def run(self, count: int, bulk_bytes: int, within_s: float) -> Report:
        """Refused when there is no session within the time, or when it ends before everything was measured."""
        try:
            began = time.perf_counter()
            self._hub.meet(ANYONE, ANY_LANE, self._address)
            up = await self._session(within_s)
            connect_us = (time.perf_counter() - began) * 1e6
            self._hub.meet(up.peer, up.lane, self._address)
            self._hub.forget(ANYONE)
            await asyncio.sleep(SETTLE_S)
            times = [await self._round_trip(up) for _ in range(count)]
            rate = await self._bulk(up, bulk_bytes) if bulk_bytes else None
            return self._report(up, connect_us, times, rate)
        finally:
            self._endpoint.close()

    async def _session(self, within_s: float) -> PeerUp:
        """The session, or the first refusal: the peer will not change its mind in a second."""
        end = time.monotonic() + within_s
        while not self._up.done():
            failures = [lane.last_failure for lane in self._hub.lanes() if lane.last_failure]
            if time.monotonic() > end or (failures and not failures[0].startswith(("nobody", "nothing", "QUIC"))):
                raise Refused(failures[0] if failures else "no answer")
            await asyncio.wait([self._up], timeout=0.02)
        return self._up.result()

    async def _round_trip(self, up: PeerUp) -> float:
        began = time.perf_counter()
        await self._call(up, Message(Type.ECHO, BODY))
        return (time.perf_counter() - began) * 1e6

    async def _call(self, up: PeerUp, message: Message) -> bytes:
        done: asyncio.Future[Answer | AnyStatus] = asyncio.get_running_loop().create_future()
        taken = self._hub.call(up.peer, up.lane, Kind.QUERY, message, CALL_MS, done.set_result)
        return _good(taken if isinstance(taken, Full) else await done)

    async def _bulk(self, up: PeerUp, size: int) -> float:
        done: asyncio.Future[Answer | AnyStatus] = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        taken = self._hub.bulk(up.peer, up.lane, "discard", b"", Zeros(size), done.set_result)
        _good(taken if isinstance(taken, Full) else await done)
        return size / (time.perf_counter() - began)

    def _report(self, up: PeerUp, connect_us: float, times: list[float], rate: float | None) -> Report:
        conn = self._endpoint.connection(up.peer, up.lane)
        session = self._hub.session(conn.link) if conn is not None else None
        if conn is None or session is None:
            raise Refused("the session ended before everything was measured")
        return Report(
            peer=up.peer,
            lane=up.lane,
            generation=up.generation,
            version=session.version,
            software=session.software,
            identity=conn.identity,
            datagram_bytes=conn.quic.datagram_size,
            connect_us=connect_us,
            round_trips_us=tuple(times),
            bulk_bytes_per_s=rate,
        )


def _good(end: Answer | AnyStatus | Full) -> bytes:
    if isinstance(end, Full):
        raise Refused(end.why)
    if isinstance(end, Status):
        raise Refused(f"it answers {type(end).__name__}: {end}")
    return end.body
