"""Passwords: how new ones are kept, how given ones are compared, what was verified lately.

Invariant: a comparison looks at every stored password and compares in constant time, so that its duration tells nothing
about how near a guess was; a wrong name costs as much as a wrong password. New passwords are kept as argon2id, which is
slow on purpose: it runs in one thread with a bounded queue, and a pair that was verified is remembered under a key that
dies with the process. World file: threads, random numbers.
"""

import asyncio
import contextlib
import hashlib
import hmac
import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from workers.acl.user import User

T = TypeVar("T")
# RFC 9106 and OWASP's second choice: 19 MiB, 2 passes; about 40 ms of one core.
MEMORY_KIB, PASSES, LANES, HASH_BYTES, SALT_BYTES = 19_456, 2, 1, 32, 16
VERIFIED_MAX = 4_096
WAITING_MAX = 64


class Busy(Exception):
    """Too many passwords wait to be hashed or compared."""


def sha256(password: bytes) -> str:
    return hashlib.sha256(password).hexdigest()


def is_argon2(stored: str) -> bool:
    return stored.startswith("$argon2id$")


class Argon2Hasher:
    """rules.Hasher; slow, for the thread."""

    def hash(self, password: bytes) -> str:
        # Imported where it is needed first: most starts of a node hash nothing.
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

        salt = os.urandom(SALT_BYTES)
        kdf = Argon2id(salt=salt, length=HASH_BYTES, iterations=PASSES, lanes=LANES, memory_cost=MEMORY_KIB)
        return kdf.derive_phc_encoded(password)

    def matches(self, password: bytes, stored: str) -> bool:
        if not is_argon2(stored):
            return hmac.compare_digest(sha256(password), stored)
        from cryptography.exceptions import InvalidKey
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

        with contextlib.suppress(InvalidKey):  # the answer is no
            Argon2id.verify_phc_encoded(password, stored)
            return True
        return False


class Passwords:
    """Of one worker process."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._key = os.urandom(32)
        self._verified: OrderedDict[bytes, None] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, "passwords")
        self._waiting = 0
        self._hasher = Argon2Hasher()
        self._decoy = ""

    async def slow(self, work: Callable[[], T]) -> T:
        """Run something that hashes in the thread; raises Busy."""
        if self._waiting >= WAITING_MAX:
            raise Busy
        self._waiting += 1
        try:
            return await self._loop.run_in_executor(self._thread, work)
        finally:
            self._waiting -= 1

    async def check(self, user: User | None, password: bytes, hides: bool) -> bool:
        """Whether this password lets the user in. `hides`: some user's password is slow to compare, so all must be."""
        stored = user.passwords if user is not None and user.enabled else ()
        mark = self._mark(user, password)
        if stored and mark in self._verified:
            self._verified.move_to_end(mark)
            return True
        digest = sha256(password)
        good = False
        for secret in stored:
            good |= not is_argon2(secret) and hmac.compare_digest(digest, secret)
        slow = [secret for secret in stored if is_argon2(secret)]
        if not good and (slow or hides):
            good = await self.slow(lambda: self._compare(slow, password))
        if good:
            self._verified[mark] = None
            if len(self._verified) > VERIFIED_MAX:
                self._verified.popitem(last=False)
        return good

    def _compare(self, secrets: list[str], password: bytes) -> bool:
        if not secrets:
            self._decoy = self._decoy or self._hasher.hash(os.urandom(16))
        found = [self._hasher.matches(password, secret) for secret in secrets or [self._decoy]]
        return bool(secrets) and any(found)

    def _mark(self, user: User | None, password: bytes) -> bytes:
        """Of a user's present passwords and this one; says nothing without the process's key."""
        parts = (user.name if user else b"", ",".join(user.passwords if user else ()).encode(), password)
        text = b"".join(len(part).to_bytes(4, "little") + part for part in parts)
        return hmac.digest(self._key, text, "sha256")

    def hasher(self) -> Argon2Hasher:
        return self._hasher
