"""One user: what ACL SETUSER made of it, as it is stored and as ACL LIST and GETUSER show it.

Invariant: a user is a value; rules make a new one (rules.py). The words that describe a user, given to ACL SETUSER of a
fresh user, make the same user again. Pure.
"""

import msgspec
from msgspec import Struct

READ, WRITE = 1, 2
DEFAULT = b"default"
ALL = "+@all"
NONE = "-@all"


class Pattern(Struct, frozen=True, array_like=True):
    """Keys that match `glob` may be read, written or both."""

    access: int
    glob: bytes

    def word(self) -> bytes:
        prefix = {READ: b"%R~", WRITE: b"%W~", READ | WRITE: b"~"}[self.access]
        return prefix + self.glob


class Selector(Struct, frozen=True, array_like=True):
    """Commands (the first rule is +@all or -@all), keys and channels that are allowed together."""

    commands: tuple[str, ...] = (NONE,)
    all_keys: bool = False
    patterns: tuple[Pattern, ...] = ()
    all_channels: bool = False
    channels: tuple[bytes, ...] = ()

    def keys_text(self) -> bytes:
        return b"~*" if self.all_keys else b" ".join(pattern.word() for pattern in self.patterns)

    def channels_text(self) -> bytes:
        return b"&*" if self.all_channels else b" ".join(b"&" + channel for channel in self.channels)

    def commands_text(self) -> bytes:
        return " ".join(self.commands).encode("latin-1")

    def words(self) -> list[bytes]:
        channels = self.channels_text()
        if not self.all_channels:
            channels = b"resetchannels " + channels
        return [word.strip() for word in (self.keys_text(), channels, self.commands_text()) if word.strip()]


class User(Struct, frozen=True, array_like=True):
    """`passwords` are 64 hex digits (SHA-256) or argon2id in its usual text form. The first selector is the root
    one."""

    name: bytes
    enabled: bool = False
    nopass: bool = False
    sanitize: str = ""  # a word of Redis's that is kept and shown: dumps are not part of this node
    passwords: tuple[str, ...] = ()
    selectors: tuple[Selector, ...] = (Selector(),)

    @property
    def flags(self) -> list[str]:
        words = ["on" if self.enabled else "off"]
        return words + ["nopass"] * self.nopass + ([self.sanitize] if self.sanitize else [])

    def line(self) -> bytes:
        """ACL LIST's line."""
        secrets = [f"#{password}" for password in self.passwords]
        head = " ".join([*self.flags, *secrets]).encode()
        root, *others = self.selectors
        words = [b"user", self.name, head, *root.words()]
        return b" ".join(words + [b"(" + b" ".join(other.words()) + b")" for other in others])


def default_user() -> User:
    """As Redis has it: everything, for everyone who gets in."""
    everything = Selector((ALL,), all_keys=True, all_channels=True)
    return User(DEFAULT, enabled=True, nopass=True, selectors=(everything,))


RECORD = 1  # form of a stored user


def encode(user: User) -> bytes:
    return msgspec.msgpack.encode((RECORD, user))


def decode(record: bytes) -> User:
    form, user = msgspec.msgpack.decode(record, type=tuple[int, User])
    assert form == RECORD, f"a user's record has form {form}, this version reads {RECORD}"
    return user
