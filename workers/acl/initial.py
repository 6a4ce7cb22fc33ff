"""Users that the configuration brings in: the default user, a file of users, the default user's password.

Invariant: a file counts only while no user was ever stored, the password at every start, so that a node whose operator
sets one is closed from then on. A file that cannot be used ends the start with its line number. World file: reads both.
"""

from nodedb_node.config import ClientsSection
from nodedb_node.errors import Exit, StartError
from workers.acl import rules
from workers.acl.user import DEFAULT, User, default_user

FILE_BYTES_MAX = 16 << 20


def changes(clients: ClientsSection, users: dict[bytes, User], version: int, hasher: rules.Hasher) -> list[User]:
    """Users to store so that the set is what the configuration says; slow when there is a password."""
    changed: dict[bytes, User] = {}
    if clients.users_file and version == 0:
        changed.update(from_file(_read(clients.users_file), clients.users_file, hasher))
    if clients.password_file:
        before = changed.get(DEFAULT) or users.get(DEFAULT) or default_user()
        after = with_password(before, _first_line(_read(clients.password_file), clients.password_file), hasher)
        if after != users.get(DEFAULT):
            changed[DEFAULT] = after
    return list(changed.values())


def with_password(user: User, password: bytes, hasher: rules.Hasher) -> User:
    """The user with this password and no other; itself when it is so already."""
    if not user.nopass and len(user.passwords) == 1 and hasher.matches(password, user.passwords[0]):
        return user
    return rules.apply(user, [b"resetpass", b">" + password], hasher)


def from_file(text: bytes, file: str, hasher: rules.Hasher) -> dict[bytes, User]:
    """Lines `user NAME RULE…`; empty lines and comments are skipped. Raises StartError."""
    found: dict[bytes, User] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith(b"#"):
            continue
        if words[0] != b"user" or len(words) < 2:
            raise _bad(file, number, "expected: user NAME RULE…")
        if words[1] in found:
            raise _bad(file, number, "Duplicate user found. A user can only be defined once in config files")
        start = default_user() if words[1] == DEFAULT else User(words[1])
        try:
            found[words[1]] = rules.apply(start, rules.merged(words[2:]), hasher)
        except rules.BadRule as error:
            raise _bad(file, number, f"{error.rule.decode('latin-1')}: {error.why}") from error
        except rules.Unmatched as error:
            raise _bad(file, number, f"Unmatched parenthesis in acl selector starting at '{error}'.") from error
    return found


def _bad(file: str, line: int, why: str) -> StartError:
    return StartError(Exit.CONFIG, f"[clients] users_file {file} line {line}: {why}")


def _first_line(text: bytes, file: str) -> bytes:
    line = text.split(b"\n", 1)[0].removesuffix(b"\r")
    if not line:
        raise StartError(Exit.CONFIG, f"[clients] password_file {file}: its first line is empty")
    return line


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(FILE_BYTES_MAX)
    except OSError as error:
        raise StartError(Exit.CONFIG, f"{path} cannot be read: {error.strerror}") from error
