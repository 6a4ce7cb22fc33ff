"""Commands that Python answers: what they may know of their connection, and calls to this and other workers.

Invariant: every command taken from the engine gets exactly one reply, also when its handler fails; a call ends by its
reply or by the engine's deadline, so nothing waits for ever. World file: it asks sockets for their peers' addresses.
"""

import asyncio
import os
import socket
import time
from collections.abc import Mapping
from typing import Protocol

from nodedb_node import log
from nodedb_node.errors import Kind, NodeError
from nodedb_node.ids import Worker, process_of_worker
from nodedb_node.native import engine as native
from nodedb_node.native import shm as native_shm
from nodedb_node.native.engine import Engine, PythonCommand
from nodedb_node.native.page import Page
from nodedb_node.native.shm import SharedMemory
from nodedb_node.routing import view
from nodedb_node.supervisor.boot import Boot
from workers.acl.access import Access, Client
from workers.frontend import acl, auth, connection, facts, keyspace, resp, server
from workers.frontend.context import Session
from workers.shard.turn import Turns

HANDLERS = {**connection.HANDLERS, **server.HANDLERS, **acl.HANDLERS}
ASYNC_HANDLERS = {**keyspace.HANDLERS, **auth.HANDLERS, **acl.ASYNC_HANDLERS}


class Host(Protocol):
    """Of the worker, what sessions need."""

    boot: Boot
    engine: Engine
    turns: Turns
    shm: SharedMemory
    page: Page
    access: Access
    loop: asyncio.AbstractEventLoop

    def facts(self) -> facts.Figures: ...
    def now_us(self) -> int: ...


class CommandContext:
    """One command of one connection; see workers/frontend/context.py."""

    def __init__(self, sessions: "Sessions", command: PythonCommand, session: Session) -> None:
        boot = sessions.host.boot
        self.session, self.conn = session, command.conn
        self.worker, self.workers, self.groups = int(boot.worker), boot.workers, boot.groups
        self.closing = False
        self.access = sessions.host.access
        self._sessions, self._command = sessions, command
        info = sessions.host.engine.connection(command.conn, command.gen)
        self._info = info or native.ConnectionInfo(native.PORT_SHARED, 2, -1, False, 0, 0)

    @property
    def resp(self) -> int:
        return self._info.resp

    def set_resp(self, version: int) -> None:
        self._set(version, self._info.readonly)

    def set_readonly(self, readonly: bool) -> None:
        self._set(self._info.resp, readonly)

    def _set(self, version: int, readonly: bool) -> None:
        self._info = self._info._replace(resp=version, readonly=readonly)
        self._sessions.host.engine.set_connection(self._command.conn, self._command.gen, version, readonly)

    @property
    def user(self) -> bytes:
        return self.access.user_of(self._command.conn, self._command.gen)[0]

    @property
    def authenticated(self) -> bool:
        return self.access.user_of(self._command.conn, self._command.gen)[1]

    async def authenticate(self, name: bytes, password: bytes, where: str) -> None:
        await self.access.authenticate(self._command.conn, self._command.gen, name, password, where, self.client())

    def forget_user(self) -> None:
        self.access.forget(self._command.conn, self._command.gen)

    def client(self) -> Client:
        return Client(self._address(local=False)[0], self.client_line(), time.time_ns() // 1_000_000)

    def scope(self) -> range:
        if self._info.port_kind == native.PORT_WORKER:
            return range(self.worker, self.worker + 1)
        return range(self.workers)

    async def call(self, worker: int, vshard: int, argv: list[bytes]) -> bytes:
        return await self._sessions.call(worker, vshard, argv)

    def members(self) -> list[view.Member]:
        host = self._sessions.host
        boot = host.boot
        up = [
            host.shm.info(process_of_worker(worker)).state == native_shm.READY
            for worker in map(Worker, range(boot.workers))
        ]
        name = view.host_for(boot.config.node.announce, self._address(local=True)[0])
        tls = self.access.speaks_tls(self._command.conn, self._command.gen)
        ports = boot.ports.tls_workers if tls and boot.ports.tls_workers else boot.ports.workers
        return view.members_of_node(boot.node_id, name, ports, host.page.routes(), up, tls)

    def client_line(self) -> str:
        (peer_host, peer_port), (local_host, local_port) = self._address(local=False), self._address(local=True)
        now_us, s = self._sessions.host.now_us(), self.session
        fields = {
            "id": (self.worker << 40) | s.gen,
            "addr": f"{peer_host}:{peer_port}",
            "laddr": f"{local_host}:{local_port}",
            "fd": self._info.fd,
            "name": s.name.decode("latin-1"),
            "age": (now_us - self._info.opened_us) // 1_000_000,
            "idle": (now_us - self._info.last_us) // 1_000_000,
            "flags": "r" if self._info.readonly else "N",
            "db": 0,
            "user": self.user.decode("latin-1"),
            "resp": self._info.resp,
            "lib-name": s.lib_name.decode("latin-1"),
            "lib-ver": s.lib_ver.decode("latin-1"),
        }
        return " ".join(f"{name}={value}" for name, value in fields.items())

    def _address(self, local: bool) -> tuple[str, int]:
        try:
            with socket.socket(fileno=os.dup(self._info.fd)) as sock:
                name = sock.getsockname() if local else sock.getpeername()
                return name[0], name[1]
        except OSError:
            return "", 0

    def settings(self) -> Mapping[str, str]:
        return facts.settings(self._sessions.host.boot)

    def info(self) -> Mapping[str, Mapping[str, object]]:
        return facts.info(self._sessions.host.boot, self._sessions.host.facts())


class Sessions:
    """Of one worker."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._sessions: dict[int, Session] = {}
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._next_token = 1

    def run(self) -> None:
        """Answer what waits, and wake the handlers whose calls were answered."""
        engine = self.host.engine
        self.host.access.take_mail()
        self.host.access.take_denials(self._describe)
        while answer := engine.next_answer():
            token, data = answer
            future = self._calls.pop(token, None)
            if future is not None and not future.done():
                future.set_result(data)
        while command := engine.next_command():
            self._start(command)
        self.host.turns.flush(self.host.now_us())

    async def call(self, worker: int, vshard: int, argv: list[bytes]) -> bytes:
        """Run an internal command in a worker; its raw RESP2 reply."""
        token = self._next_token
        self._next_token = token % 0x7FFFFFFF + 1
        future: asyncio.Future[bytes] = self.host.loop.create_future()
        self._calls[token] = future
        self.host.engine.call(token, worker, vshard, argv, 2, self.host.now_us())
        self.host.turns.propose()
        self.host.loop.call_soon(self._flush)
        return await future

    def _flush(self) -> None:
        self.host.turns.flush(self.host.now_us())

    def _describe(self, conn: int, gen: int) -> Client:
        """The client of a connection whose command was refused."""
        command = PythonCommand(conn, gen, "", [])
        return CommandContext(self, command, self._session(command)).client()

    def _session(self, command: PythonCommand) -> Session:
        session = self._sessions.get(command.conn)
        if session is None or session.gen != command.gen:
            session = self._sessions[command.conn] = Session(command.gen)
        return session

    def _start(self, command: PythonCommand) -> None:
        ctx = CommandContext(self, command, self._session(command))
        handler = HANDLERS.get(command.name)
        if handler is not None:
            self._reply(command, ctx, handler(ctx, command.argv))
        elif command.name in ASYNC_HANDLERS:
            task = self.host.loop.create_task(self._run(command, ctx))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:  # a container without its subcommand
            name = command.argv[0].decode("latin-1").lower()
            self._reply(command, ctx, resp.error(Kind.WRONG_ARITY.value.format(name=name)))

    async def _run(self, command: PythonCommand, ctx: CommandContext) -> None:
        try:
            reply = await ASYNC_HANDLERS[command.name](ctx, command.argv)
        except (keyspace.PartFailed, NodeError) as error:
            reply = resp.error(str(error))
        except Exception as error:  # noqa: BLE001 - the client must not wait for ever, whatever a handler did
            log.exception("command failed", command=command.name)
            reply = resp.error(Kind.INTERNAL.value.format(what=type(error).__name__))
        self._reply(command, ctx, reply)
        self._flush()

    def _reply(self, command: PythonCommand, ctx: CommandContext, reply: bytes) -> None:
        self.host.engine.reply(command.conn, command.gen, reply, ctx.closing)
