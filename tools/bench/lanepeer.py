"""The two processes of the lanes bench: python -m tools.bench.lanepeer ROLE KIND CASE PORT SECONDS DIRECTORY.

ROLE: serve | drive. KIND: what carries the bytes: lanes (this project's), aioquic (as it comes, one stream, its own
protocol class), qh3 (the same API), tcp (TLS streams with client certificates). All on uvloop, all with an ECDSA P-256
certificate of the same authority; only lanes and tcp show and judge the client's. The driver prints one JSON line.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import ssl
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from nodedb_node.ids import ClusterId, NodeId, Process
from nodedb_node.native.frame import AppendHead, encode_append_native
from nodedb_node.rpc.frame import Kind
from nodedb_node.transport.interface import Address, Answer, Message

ALICE, BOB = NodeId("a" * 40), NodeId("b" * 40)
CLUSTER = ClusterId("c" * 32)
LANE = Process(0)
MIB = 1 << 20
CHUNK = 256 << 10
MESSAGE_BYTES, PER_BATCH, BATCHES_PER_S = 200, 50, 1000
FRAME_BYTES, FRAMES_PER_S = 16 << 10, 1000
HEARTBEAT_S = 0.01
HEADER = struct.Struct("<IB")
ONEWAY, ASK, ANSWER, REPORT = range(4)


def cpu_s() -> float:
    times = os.times()
    return times.user + times.system


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0.0


# ---- what carries the bytes; each has: send(bytes, lane), ask(bytes) -> bytes, backlog(), counted ----


class LaneSide:
    """Our lanes. A frame of class LOG for messages, QUERY for requests, the bulk connection for bulk."""

    def __init__(self, directory: Path, node: NodeId, port: int) -> None:
        from nodedb_node.native.udp import Udp, bound
        from nodedb_node.rpc.hello import Local
        from nodedb_node.transport.quic import Endpoint
        from tools.bench.lanecerts import FileCredentials

        self.received = 0
        local = Local(CLUSTER, node, int(time.time() * 1000), os.urandom(16), LANE)
        udp = Udp(bound("127.0.0.1" if not os.environ.get("BENCH_BIND") else os.environ["BENCH_BIND"], port), 8 * MIB)
        loop = asyncio.get_running_loop()
        self.endpoint = Endpoint(loop, udp, FileCredentials(directory, node), local, self)
        self.hub = self.endpoint.hub
        self.up = asyncio.Event()
        self.ups = 0

    def on_frame(self, arrival: Any) -> None:
        self.received += len(arrival.body)
        if arrival.id:
            self.hub.reply(arrival, Answer(self._report() if arrival.type == 41 else arrival.body))

    def _report(self) -> bytes:
        return json.dumps({"received": self.received, "cpu": cpu_s()}).encode()

    def on_peer(self, event: Any) -> None:
        self.ups += 1
        self.up.set()

    def on_bulk(self, offer: Any) -> Any:
        side = self

        class Sink:
            def resume_at(self) -> int:
                return 0

            def write(self, offset: int, data: bytes) -> None:
                side.received += len(data)

            def complete(self) -> None: ...
            def aborted(self, why: str) -> None: ...

        return Sink()

    async def connect(self, host: str, port: int) -> None:
        self.hub.meet(BOB, LANE, Address(host, port))
        await self.up.wait()

    def send(self, body: bytes) -> bool:
        return not hasattr(self.hub.send(BOB, LANE, Kind.LOG, Message(40, body)), "why")

    async def ask(self, body: bytes, number: int = 40, kind: Kind = Kind.QUERY) -> bytes:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.hub.call(BOB, LANE, kind, Message(number, body), 20_000, lambda end: done.done() or done.set_result(end))
        return (await done).body  # type: ignore[no-any-return]

    async def beat(self) -> None:
        await self.ask(b"beat", kind=Kind.CONTROL)

    async def report(self) -> dict[str, float]:
        return json.loads(await self.ask(b"", 41))  # type: ignore[no-any-return]

    async def bulk(self, size: int) -> None:
        data = bytes(CHUNK)
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        class Source:
            def read(self, offset: int, length: int) -> bytes:
                return data[:length]

        source = Source()
        source.size = size  # type: ignore[attr-defined]
        self.hub.bulk(BOB, LANE, "bench", b"", source, done.set_result)  # type: ignore[arg-type]
        end = await done
        assert isinstance(end, Answer), end

    def batch(self) -> bytes:
        return self._batch

    def prepare(self) -> None:
        from nodedb_node._native import ffi

        payload = ffi.from_buffer(bytes(MESSAGE_BYTES))
        self._entries, self._args = ffi.new("nd_entry[]", PER_BATCH), ffi.new("nd_arg[]", PER_BATCH)
        for i in range(PER_BATCH):
            self._entries[i].index, self._args[i].ptr, self._args[i].len = i + 1, ffi.cast("uint8_t *", payload), 200
        self._keep = payload

    def messages(self) -> bytes:
        return encode_append_native(AppendHead(1, 1, 0, 0, 0), PER_BATCH, self._entries, self._args)


class StreamSide:
    """Length-prefixed messages on one asyncio stream: TCP+TLS, or one stream of a QUIC library's own protocol class."""

    def __init__(self) -> None:
        self.received = 0
        self._answers: list[asyncio.Future[bytes]] = []
        self._keep: Any = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                length, kind = HEADER.unpack(await reader.readexactly(HEADER.size))
                body = await reader.readexactly(length)
                self.received += length
                if kind == ASK:
                    writer.write(HEADER.pack(length, ANSWER) + body)
                elif kind == REPORT:
                    report = json.dumps({"received": self.received, "cpu": cpu_s()}).encode()
                    writer.write(HEADER.pack(len(report), ANSWER) + report)
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    async def listen_answers(self) -> None:
        while True:
            length, _ = HEADER.unpack(await self.reader.readexactly(HEADER.size))
            self._answers.pop(0).set_result(await self.reader.readexactly(length))

    def began(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._keep = asyncio.ensure_future(self.listen_answers())

    def send(self, body: bytes) -> bool:
        self.writer.write(HEADER.pack(len(body), ONEWAY) + body)
        return True

    async def ask(self, body: bytes, kind: int = ASK) -> bytes:
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answers.append(done)
        self.writer.write(HEADER.pack(len(body), kind) + body)
        return await done

    async def beat(self) -> None:
        await self.ask(b"beat")

    async def report(self) -> dict[str, float]:
        return json.loads(await self.ask(b"", REPORT))  # type: ignore[no-any-return]

    async def bulk(self, size: int) -> None:
        """Acknowledged by the peer every 2 MiB, as lanes' credits do."""
        data, sent, waiting = bytes(CHUNK), 0, []
        while sent < size:
            waiting.append(asyncio.ensure_future(self.ask(data)) if not sent % MIB else None)
            if waiting[-1] is None:
                self.send(data)
                waiting.pop()
            sent += CHUNK
            if len(waiting) > 2:
                await waiting.pop(0)
        for one in waiting:
            await one

    def prepare(self) -> None: ...

    def messages(self) -> bytes:
        return bytes(PER_BATCH * (MESSAGE_BYTES + 4))


def quic_library(name: str) -> tuple[Any, Any, Any, Any]:
    if name == "qh3":
        from qh3.asyncio import QuicConnectionProtocol, connect, serve
        from qh3.quic.configuration import QuicConfiguration
    else:
        from aioquic.asyncio import QuicConnectionProtocol, connect, serve  # type: ignore[assignment]
        from aioquic.quic.configuration import QuicConfiguration  # type: ignore[assignment]
    return QuicConnectionProtocol, connect, serve, QuicConfiguration


async def serve(kind: str, port: int, directory: Path) -> None:
    host = os.environ.get("BENCH_BIND", "127.0.0.1")
    if kind == "lanes":
        side = LaneSide(directory, BOB, port)
        port = side.endpoint.udp.address[1]
    elif kind == "tcp":
        stream = StreamSide()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "b.crt", directory / "b.key")
        context.load_verify_locations(directory / "ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        server = await asyncio.start_server(stream.serve, host, port, ssl=context, limit=4 * MIB)
        port = server.sockets[0].getsockname()[1]
    else:
        stream = StreamSide()
        _, _, listen, configuration = quic_library(kind)
        config = configuration(is_client=False, alpn_protocols=["bench"], max_data=64 * MIB, max_stream_data=32 * MIB)
        config.load_cert_chain(directory / "b.crt", directory / "b.key")
        tasks = []

        def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.append(asyncio.ensure_future(stream.serve(reader, writer)))

        server = await listen(host, port, configuration=config, stream_handler=handler)
        port = server._transport.get_extra_info("sockname")[1]
    settle()
    print(port, flush=True)
    await asyncio.Event().wait()


async def drive(kind: str, case: str, host: str, port: int, seconds: float, directory: Path) -> None:
    if kind == "lanes":
        side: Any = LaneSide(directory, ALICE, 0)
        await side.connect(host, port)
        await run(side, case, seconds)
    elif kind == "tcp":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(directory / "ca.crt")
        context.load_cert_chain(directory / "a.crt", directory / "a.key")
        side = StreamSide()
        side.began(*await asyncio.open_connection(host, port, ssl=context, limit=4 * MIB))
        await run(side, case, seconds)
    else:
        _, connect, _, configuration = quic_library(kind)
        config = configuration(is_client=True, alpn_protocols=["bench"], max_data=64 * MIB, max_stream_data=32 * MIB)
        config.verify_mode = ssl.CERT_NONE
        async with connect(host, port, configuration=config) as client:
            side = StreamSide()
            side.began(*await client.create_stream())
            await run(side, case, seconds)


def settle() -> None:
    """What was imported and connected is not collected again, as in a worker."""
    gc.collect()
    gc.freeze()


async def run(side: Any, case: str, seconds: float) -> None:
    settle()
    await CASES[case](side, seconds)


def say(**figures: Any) -> None:
    print(json.dumps(figures), flush=True)


async def measured(side: Any, do: Callable[[], Awaitable[None]]) -> dict[str, float]:
    """CPU of both sides and time, over `do`."""
    before, own, began = await side.report(), cpu_s(), time.perf_counter()
    await do()
    took = time.perf_counter() - began
    mine = cpu_s() - own
    after = await side.report()
    return {
        "took": took,
        "sender": mine,
        "receiver": after["cpu"] - before["cpu"],
        "received": after["received"] - before["received"],
    }


async def bulk(side: Any, seconds: float) -> None:
    await side.ask(bytes(100))
    await asyncio.sleep(0.2)  # the path's size is being found out
    await side.bulk(4 * MIB)
    began = time.perf_counter()
    await side.bulk(4 * MIB)
    size = max(4 * MIB, int(4 * MIB / (time.perf_counter() - began) * seconds) // MIB * MIB)
    found = await measured(side, lambda: side.bulk(size))
    mb = size / 1e6
    say(
        mb_per_s=mb / found["took"],
        sender_ms_per_mb=found["sender"] * 1e3 / mb,
        receiver_ms_per_mb=found["receiver"] * 1e3 / mb,
    )


async def requests(side: Any, seconds: float) -> None:
    for _ in range(200):
        await side.ask(bytes(100))
    times: list[float] = []

    async def ask() -> None:
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            await side.ask(bytes(100))
            times.append((time.perf_counter() - began) * 1e6)

    found = await measured(side, ask)
    say(
        p50_us=quantile(times, 0.5),
        p99_us=quantile(times, 0.99),
        per_s=len(times) / seconds,
        sender_cpu_us=found["sender"] * 1e6 / len(times),
        receiver_cpu_us=found["receiver"] * 1e6 / len(times),
    )


async def paced(per_s: int, seconds: float, do: Callable[[], Any]) -> None:
    """do() so many times a second, at most 10 at once when late."""
    began, done = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        due = min(int(passed * per_s), done + 10)
        while done < due:
            do()
            done += 1
        await asyncio.sleep(0.001)


async def messages(side: Any, seconds: float) -> None:
    side.prepare()
    await side.ask(bytes(100))
    await asyncio.sleep(0.2)
    refused = 0

    def one() -> None:
        nonlocal refused
        refused += not side.send(side.messages())

    found = await measured(side, lambda: paced(BATCHES_PER_S, seconds, one))
    say(
        per_s=found["received"] / MESSAGE_BYTES / found["took"] * 50 * 200 / len(side.messages()),
        sender_percent=100 * found["sender"] / found["took"],
        receiver_percent=100 * found["receiver"] / found["took"],
        refused=refused,
    )


async def heartbeat(side: Any, seconds: float) -> None:
    await side.ask(bytes(100))
    await asyncio.sleep(0.2)
    times: list[float] = []
    body, stop = bytes(FRAME_BYTES), False

    async def flood() -> int:
        sent = 0
        while not stop:
            await side.bulk(4 * MIB)
            sent += 4
        return sent

    async def beats() -> None:
        while not stop:
            began = time.perf_counter()
            await side.beat()
            times.append((time.perf_counter() - began) * 1e3)
            await asyncio.sleep(HEARTBEAT_S)

    refused = 0

    def one() -> None:
        nonlocal refused
        refused += not side.send(body)

    tasks = [asyncio.ensure_future(flood()), asyncio.ensure_future(beats())]
    began = time.perf_counter()
    await paced(FRAMES_PER_S, seconds, one)
    took = time.perf_counter() - began
    stop = True
    sent = await tasks[0]
    await tasks[1]
    say(
        p50_ms=quantile(times, 0.5),
        p99_ms=quantile(times, 0.99),
        max_ms=max(times),
        bulk_mb_per_s=sent / took,
        frames_refused=refused,
        beats=len(times),
    )


async def reconnect(side: Any, seconds: float) -> None:
    """The bench restarts the server and says so on standard input: the time from its readiness to the first answer."""
    await side.ask(bytes(100))
    say(ready=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        if line.strip() == "killed":
            began = time.perf_counter()
            ups = side.ups
            while side.ups < ups + 1 or side.hub.link_of(BOB, LANE) is None:
                await asyncio.sleep(0.001)
            await side.ask(bytes(100), kind=Kind.CONTROL)
            say(at=time.time(), took_ms=(time.perf_counter() - began) * 1e3)


CASES: dict[str, Callable[[Any, float], Awaitable[None]]] = {
    "bulk": bulk,
    "requests": requests,
    "messages": messages,
    "heartbeat": heartbeat,
    "reconnect": reconnect,
}


def main() -> None:
    role, kind, case, host, port, seconds, directory = sys.argv[1:]
    if profile := os.environ.get("BENCH_PROFILE"):
        import cProfile

        profiler = cProfile.Profile()
        profiler.enable()
    if role == "serve":
        uvloop.run(serve(kind, int(port), Path(directory)))
    else:
        uvloop.run(drive(kind, case, host, int(port), float(seconds), Path(directory)))
        if profile:
            profiler.disable()
            profiler.dump_stats(profile)
        os._exit(0)


if __name__ == "__main__":
    main()
