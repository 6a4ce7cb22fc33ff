"""Rules of ACL SETUSER, applied to a user: the words of Redis 7.0 and its errors.

Invariant: all rules or none: the first that cannot be applied raises, and the user that was given is unchanged.
Passwords are hashed and compared by what the caller gives, which may take its time. Pure.
"""

import re
from collections.abc import Callable
from typing import Protocol

import msgspec

from workers.acl import commandset
from workers.acl.user import ALL, NONE, READ, WRITE, Pattern, Selector, User

UNKNOWN = "Unknown command or category name in ACL"
SYNTAX = "Syntax error"
AFTER_ALL_KEYS = (
    "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. "
    "Try 'resetkeys' to start with an empty list of patterns"
)
AFTER_ALL_CHANNELS = (
    "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any effect. "
    "Try 'resetchannels' to start with an empty list of channels"
)
NO_SUCH_PASSWORD = "The password you are trying to remove from the user does not exist"
BAD_HASH = "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters"
FIRST_OF_SUBCOMMAND = "Allowing first-arg of a subcommand is not supported"

SHA256 = re.compile(r"[0-9a-f]{64}")
ARGON2 = re.compile(
    r"\$argon2id\$v=19\$m=([1-9]\d{0,6}),t=([1-9]\d?),p=([1-9]\d?)\$[A-Za-z0-9+/]{11,64}\$[A-Za-z0-9+/]{22,128}"
)
ARGON2_MEMORY_KIB_MAX = 1 << 18
SPACES = re.compile(rb"[\x00\s]")


class BadRule(Exception):
    """A rule that cannot be applied, and why, in Redis's words."""

    def __init__(self, rule: bytes, why: str) -> None:
        super().__init__(why)
        self.rule, self.why = rule, why


class Unmatched(Exception):
    """A selector that is not closed."""


class Hasher(Protocol):
    """How passwords become what is stored."""

    def hash(self, password: bytes) -> str: ...
    def matches(self, password: bytes, stored: str) -> bool: ...


def merged(words: list[bytes]) -> list[bytes]:
    """Words of a selector, (+get ~a*), joined into one word; raises Unmatched with how it begins."""
    found: list[bytes] = []
    opened: list[bytes] = []
    for word in words:
        if word[:1] == b"(" and word[-1:] != b")":
            opened = [word]  # as in Redis: what an earlier one opened is forgotten
        elif opened:
            opened.append(word)
        else:
            found.append(word)
            continue
        if word[-1:] == b")":
            found.append(b" ".join(opened))
            opened = []
    if opened:
        raise Unmatched(opened[0].decode("latin-1"))
    return found


def hashes(words: list[bytes]) -> bool:
    """Whether applying the words needs the hasher, which is slow."""
    return any(word[:1] in (b">", b"<") for word in words)


def apply(user: User, words: list[bytes], hasher: Hasher) -> User:
    """The user with the rules applied in order."""
    for word in words:
        user = _apply(user, word, hasher)
    return user


def _apply(user: User, word: bytes, hasher: Hasher) -> User:
    if not word:
        return user
    simple = _SIMPLE.get(word.lower())
    if simple is not None:
        return simple(user)
    if word[:1] in _PASSWORD:
        return _PASSWORD[word[:1]](user, word, hasher)
    if word[:1] == b"(" and word[-1:] == b")":
        selector = Selector()
        for inner in word[1:-1].split():
            try:
                selector = select(selector, inner)
            except BadRule as error:
                raise BadRule(word, error.why) from error
        return _with(user, selectors=(*user.selectors, selector))
    return _with(user, selectors=(select(user.selectors[0], word), *user.selectors[1:]))


def _with(user: User, **fields: object) -> User:
    return msgspec.structs.replace(user, **fields)


def _reset(user: User) -> User:
    return User(user.name, sanitize="sanitize-payload")


_SIMPLE: dict[bytes, Callable[[User], User]] = {
    b"on": lambda user: _with(user, enabled=True),
    b"off": lambda user: _with(user, enabled=False),
    b"nopass": lambda user: _with(user, nopass=True, passwords=()),
    b"resetpass": lambda user: _with(user, nopass=False, passwords=()),
    b"sanitize-payload": lambda user: _with(user, sanitize="sanitize-payload"),
    b"skip-sanitize-payload": lambda user: _with(user, sanitize="skip-sanitize-payload"),
    b"clearselectors": lambda user: _with(user, selectors=user.selectors[:1]),
    b"reset": _reset,
}


# ---- passwords ----


def _valid(word: bytes) -> str:
    """A stored password as it is given behind # or !."""
    text = word[1:].decode("latin-1")
    argon2 = ARGON2.fullmatch(text)
    if not SHA256.fullmatch(text) and not (argon2 and int(argon2[1]) <= ARGON2_MEMORY_KIB_MAX):
        raise BadRule(word, BAD_HASH)
    return text


def _add_password(user: User, word: bytes, hasher: Hasher) -> User:
    known = any(hasher.matches(word[1:], stored) for stored in user.passwords)
    passwords = user.passwords if known else (*user.passwords, hasher.hash(word[1:]))
    return _with(user, nopass=False, passwords=passwords)


def _add_hash(user: User, word: bytes, hasher: Hasher) -> User:
    stored = _valid(word)
    passwords = user.passwords if stored in user.passwords else (*user.passwords, stored)
    return _with(user, nopass=False, passwords=passwords)


def _remove_password(user: User, word: bytes, hasher: Hasher) -> User:
    return _without(user, word, [stored for stored in user.passwords if hasher.matches(word[1:], stored)])


def _remove_hash(user: User, word: bytes, hasher: Hasher) -> User:
    stored = _valid(word)
    return _without(user, word, [known for known in user.passwords if known == stored])


def _without(user: User, word: bytes, removed: list[str]) -> User:
    if not removed:
        raise BadRule(word, NO_SUCH_PASSWORD)
    return _with(user, passwords=tuple(known for known in user.passwords if known not in removed))


_PASSWORD: dict[bytes, Callable[[User, bytes, Hasher], User]] = {
    b">": _add_password,
    b"#": _add_hash,
    b"<": _remove_password,
    b"!": _remove_hash,
}


# ---- selectors ----


def select(selector: Selector, word: bytes) -> Selector:
    """The selector with one rule more about commands, keys or channels."""
    fixed = _FIXED.get(word.lower())
    if fixed is not None:
        return _change(selector, **fixed)
    match word[:1]:
        case b"~" | b"%":
            return _key(selector, word)
        case b"&":
            return _channel(selector, word)
        case b"+" | b"-":
            return _change(selector, commands=_command(selector.commands, word))
    raise BadRule(word, SYNTAX)


def _change(selector: Selector, **fields: object) -> Selector:
    return msgspec.structs.replace(selector, **fields)


_FIXED: dict[bytes, dict[str, object]] = {
    b"allkeys": {"all_keys": True, "patterns": ()},
    b"~*": {"all_keys": True, "patterns": ()},
    b"resetkeys": {"all_keys": False, "patterns": ()},
    b"allchannels": {"all_channels": True, "channels": ()},
    b"&*": {"all_channels": True, "channels": ()},
    b"resetchannels": {"all_channels": False, "channels": ()},
    b"allcommands": {"commands": (ALL,)},
    b"+@all": {"commands": (ALL,)},
    b"nocommands": {"commands": (NONE,)},
    b"-@all": {"commands": (NONE,)},
}


def _key(selector: Selector, word: bytes) -> Selector:
    if selector.all_keys:
        raise BadRule(word, AFTER_ALL_KEYS)
    access, glob = READ | WRITE, word[1:]
    if word[:1] == b"%":
        letters, _, glob = word[1:].partition(b"~")
        access = 0
        for letter in letters.upper():
            bit = {ord("R"): READ, ord("W"): WRITE}.get(letter, 0)
            if bit == 0 or access & bit:
                raise BadRule(word, SYNTAX)
            access |= bit
    if access == 0 or SPACES.search(glob):
        raise BadRule(word, SYNTAX)
    patterns = list(selector.patterns)
    for number, known in enumerate(patterns):
        if known.glob == glob:
            patterns[number] = Pattern(known.access | access, glob)
            break
    else:
        patterns.append(Pattern(access, glob))
    return _change(selector, patterns=tuple(patterns))


def _channel(selector: Selector, word: bytes) -> Selector:
    if selector.all_channels:
        raise BadRule(word, AFTER_ALL_CHANNELS)
    channel = word[1:]
    if SPACES.search(channel):
        raise BadRule(word, SYNTAX)
    channels = selector.channels if channel in selector.channels else (*selector.channels, channel)
    return _change(selector, channels=channels)


def _command(rules: tuple[str, ...], word: bytes) -> tuple[str, ...]:
    rule = word.decode("latin-1")
    target = rule[1:]
    row = commandset.find(target)
    if target.startswith("@"):
        rule = rule.lower()
    elif row is not None:
        rule = rule[0] + row.name
    elif "|" in target and rule[0] == "+":
        rule = _first_argument(word, target)
    try:
        if row is None and rule[0] == "-" and not target.startswith("@"):
            raise commandset.Unknown(rule)
        return commandset.added(rules, rule)
    except commandset.Unknown as error:
        raise BadRule(word, UNKNOWN) from error


def _first_argument(word: bytes, target: str) -> str:
    """A rule like +select|0, checked: the command must be known and have no subcommands."""
    name, _, first = target.rpartition("|")
    row = commandset.find(name)
    if row is None:
        raise BadRule(word, UNKNOWN)
    if row.container is not None:
        raise BadRule(word, FIRST_OF_SUBCOMMAND)
    if not first:
        raise BadRule(word, SYNTAX)
    if commandset.of_row(row) != 1 << row.id:
        raise BadRule(word, UNKNOWN)
    return f"+{row.name}|{first}"
