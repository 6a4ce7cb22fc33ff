"""The users of one worker: the set as control handed it out, who may come in, changes, and what was refused.

Invariant: a connection acts by the newest set that this worker acknowledged; a change is answered when every worker
that serves has it and it is durable. What control is asked ends by its answer, its death or a deadline. World file:
futures of the event loop.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import msgspec

from nodedb_node import log
from nodedb_node.acl import messages
from nodedb_node.config import ClientsSection
from nodedb_node.errors import Kind, NodeError, StartError
from nodedb_node.native.access import AccessEngine, CompiledUser, Mail
from workers.acl import initial
from workers.acl.compile import compiled
from workers.acl.limiter import Bucket, FailureLimiter
from workers.acl.passwords import Busy, Passwords, is_argon2
from workers.acl.user import DEFAULT, User, decode, default_user, encode

TRIES_MAX = 8
SECOND_US = 1_000_000
NOTES_PER_SECOND = 100  # refusals told to control; more are counted only
LINES_PER_SECOND = 10

PROTECTED = (
    "-DENIED nodedb-node is running in protected mode because no password is set for the default user. In this mode "
    "connections are only accepted from the loopback interface. To connect from elsewhere do one of the following: "
    "1) give the default user a password: ACL SETUSER default resetpass >PASSWORD from the loopback interface, or "
    "[clients] password_file; 2) switch the default user off: ACL SETUSER default off, after making users of your own; "
    "3) set [clients] protected_mode = false and start the node again, if nobody else can reach it.\r\n"
)


class Known(NamedTuple):
    """A user and what C checks by."""

    user: User
    compiled: CompiledUser


class Denied(Exception):
    """Authentication failed, or cannot be tried now; the text is the reply."""


class Access:
    """One worker's."""

    def __init__(
        self,
        engine: AccessEngine,
        metrics: Any,
        clients: ClientsSection,
        first: bool,
        loop: asyncio.AbstractEventLoop,
        now_us: Callable[[], int],
        flush: Callable[[], None],
        serve: Callable[[], None],
        give_up: Callable[[StartError], None],
    ) -> None:
        self._engine, self._metrics, self._clients, self._loop = engine, metrics, clients, loop
        self._first, self._now_us, self._flush, self._serve, self._give_up = first, now_us, flush, serve, give_up
        self._passwords = Passwords(loop)
        self._limiter = FailureLimiter(clients.auth_failures_max)
        self._notes = Bucket(NOTES_PER_SECOND, SECOND_US, now_us())
        self._lines = Bucket(LINES_PER_SECOND, SECOND_US, now_us())
        self._known: dict[bytes, Known] = {}
        self._version = -1
        self._welcome = False
        self._slow = False  # some user's password is slow to compare
        self._asked: dict[int, asyncio.Future[bytes | None]] = {}
        self._next_request = 1
        self._tasks: set[asyncio.Task[None]] = set()
        engine.protect(PROTECTED if clients.protected_mode else "")
        engine.auth_limit(clients.auth_ms)

    # ---- the set ----

    @property
    def names(self) -> list[bytes]:
        return sorted(self._known)

    def find(self, name: bytes) -> Known | None:
        return self._known.get(name)

    def take_mail(self) -> None:
        """Everything control sent."""
        while mail := self._engine.next_mail():
            self._take(mail)

    def _take(self, mail: Mail) -> None:
        match mail.type:
            case 0:
                for request in list(self._asked):
                    self._answer(request, None)
            case messages.USERS:
                self._users(msgspec.msgpack.decode(mail.data, type=messages.Users))
            case messages.WELCOME:
                if not self._welcome:
                    self._welcome = True
                    self._serve()
            case messages.RESULT | messages.LOG:
                self._answer(mail.request_id, mail.data)
            case _:
                raise AssertionError(f"control sent a message of type {mail.type}")

    def _users(self, news: messages.Users) -> None:
        assert news.full or news.version == self._version + 1, f"users {news.version} after {self._version}"
        puts = {name: decode(record) for name, record in news.puts}
        if news.full and DEFAULT not in puts:
            puts[DEFAULT] = default_user()
        gone = set(news.drops) | (set(self._known) - set(puts) if news.full else set())
        for user in puts.values():
            self._put(user)
        for name in gone & set(self._known):
            self._engine.swap(self._known.pop(name).compiled, None)
        self._slow = any(is_argon2(secret) for known in self._known.values() for secret in known.user.passwords)
        self._version = news.version
        self._engine.send(messages.ACK, 0, messages.encode(messages.Ack(news.version)))
        if news.unsettled and self._first:
            self._task(self._settle())

    def _put(self, user: User) -> None:
        before, fresh = self._known.get(user.name), Known(user, CompiledUser(compiled(user)))
        self._known[user.name] = fresh
        if user.name == DEFAULT:
            self._engine.set_default(fresh.compiled)
        if before is not None:
            self._engine.swap(before.compiled, fresh.compiled)

    def _task(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle(self) -> None:
        """Bring in what the configuration says, once per life of control."""
        for _ in range(TRIES_MAX):
            users = {name: known.user for name, known in self._known.items()}
            version = self._version
            work = partial(initial.changes, self._clients, users, version, self._passwords.hasher())
            try:
                changed = await self._passwords.slow(work)
            except StartError as error:
                if not self._welcome:
                    self._give_up(error)
                    return
                log.error("users of the configuration cannot be read; they stay as they are", reason=error)
                changed = []
            puts = [(user.name, encode(user)) for user in changed]
            answer = await self._ask(messages.CHANGE, messages.Change(version, puts, [], settles=True))
            if answer is None or msgspec.msgpack.decode(answer, type=messages.Result).done:
                return  # without an answer control has died, and its next life asks again
        log.error("users of the configuration were not brought in: others kept changing them")

    # ---- asking control ----

    async def _ask(self, kind: int, message: msgspec.Struct) -> bytes | None:
        """Control's answer; None when it died or its deadline passed."""
        request = self._next_request
        self._next_request += 1
        future: asyncio.Future[bytes | None] = self._loop.create_future()
        if not self._engine.send(kind, request, messages.encode(message)):
            raise NodeError(Kind.TRYAGAIN, what="the control process restarts")
        self._loop.call_soon(self._flush)  # or it would leave with the next turn, which may be a tick away
        self._asked[request] = future
        timer = self._loop.call_later(self._clients.deadline_ms / 1000, self._answer, request, None)
        try:
            return await future
        finally:
            timer.cancel()

    def _answer(self, request: int, data: bytes | None) -> None:
        future = self._asked.pop(request, None)
        if future is not None and not future.done():
            future.set_result(data)

    async def change(self, make: Callable[[], tuple[list[User], list[bytes]]], slow: bool) -> None:
        """Store the users and forget the names that `make` says, from the set as it is when it is called; it is called
        again when another change came first. Raises NodeError; what `make` raises passes through."""
        for _ in range(TRIES_MAX):
            version = self._version
            try:
                puts, drops = await self._passwords.slow(make) if slow else make()
            except Busy:
                raise NodeError(Kind.OVERLOAD, retry_ms=100, what="too many passwords wait to be hashed") from None
            if not puts and not drops:
                return
            change = messages.Change(version, [(user.name, encode(user)) for user in puts], drops)
            answer = await self._ask(messages.CHANGE, change)
            if answer is None:
                raise NodeError(Kind.UNKNOWN)
            result = msgspec.msgpack.decode(answer, type=messages.Result)
            if result.refused:
                raise NodeError(Kind.INTERNAL, what=result.refused)
            if result.done:
                return
        raise NodeError(Kind.TRYAGAIN, what="users are being changed by others")

    def judge(self, known: Known, argv: list[bytes]) -> tuple[int, int]:
        """What C says about a command that exists and has the right number of arguments."""
        return self._engine.judge(known.compiled, argv)

    def user_of(self, conn: int, gen: int) -> tuple[bytes, bool]:
        return self._engine.user_of(conn, gen)

    def speaks_tls(self, conn: int, gen: int) -> bool:
        return self._engine.speaks_tls(conn, gen)

    def forget(self, conn: int, gen: int) -> None:
        self._engine.forget(conn, gen)

    def hasher(self) -> Any:
        return self._passwords.hasher()

    # ---- coming in ----

    async def authenticate(self, conn: int, gen: int, name: bytes, password: bytes, where: str, of: "Client") -> None:
        """Make the connection the user's; raises Denied with the reply."""
        now_us = self._now_us()
        wait_ms = self._limiter.wait_ms(of.address, now_us)
        if wait_ms:
            self._metrics.auth_refusals += 1
            what = "too many failed authentications from this address"
            raise Denied(Kind.OVERLOAD.value.format(retry_ms=wait_ms, what=what))
        known = self._known.get(name)
        try:
            good = known is not None and known.user.enabled and known.user.nopass
            good = good or await self._passwords.check(known.user if known else None, password, self._slow)
        except Busy:
            raise Denied(Kind.OVERLOAD.value.format(retry_ms=100, what="too many passwords wait")) from None
        known_now = self._known.get(name)
        if good and known and known_now and known_now.user == known.user:  # not changed while it was compared
            self._engine.authenticated(conn, gen, known_now.compiled)
            return
        self._failed(name, where, of)
        raise Denied("WRONGPASS invalid username-password pair or user is disabled.")

    def _failed(self, name: bytes, where: str, of: "Client") -> None:
        now_us = self._now_us()
        self._limiter.failed(of.address, now_us)
        self._metrics.auth_failures += 1
        if self._lines.take(now_us):
            log.warning("authentication failed", user=name[:64].decode("latin-1"), address=of.address, by=where)
        self._note(messages.Denial("auth", "toplevel", where.encode(), name, of.line, of.at_ms))

    # ---- what was refused ----

    def _note(self, denial: messages.Denial) -> None:
        if self._notes.take(self._now_us()):
            self._engine.send(messages.DENIED, 0, messages.encode(denial))

    def take_denials(self, describe: Callable[[int, int], "Client"]) -> None:
        """Tell control what C refused; `describe` says who a connection is."""
        while denial := self._engine.next_denial():
            of = describe(denial.conn, denial.gen)
            reason = "command" if denial.reason == 1 else "key"
            name, _ = self._engine.user_of(denial.conn, denial.gen)
            self._note(messages.Denial(reason, "toplevel", denial.object, name, of.line, of.at_ms))

    async def denials(self, count: int, reset: bool = False) -> list[messages.Denial]:
        """ACL LOG; raises NodeError."""
        answer = await self._ask(messages.READ_LOG, messages.ReadLog(count, reset))
        if answer is None:
            raise NodeError(Kind.TRYAGAIN, what="the control process restarts")
        return msgspec.msgpack.decode(answer, type=list[messages.Denial])


class Client(NamedTuple):
    """Who is at the other end, for logs."""

    address: str
    line: str
    at_ms: int
