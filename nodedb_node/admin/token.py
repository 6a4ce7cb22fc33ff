"""The admin token: a secret in a file that whoever may operate the node can read. World file.

Invariant: the file in the data directory is made once, readable by its owner only; a token is never empty. The file is
read again when it changed, so that replacing it rotates the token. The token is never logged.
"""

from __future__ import annotations

import hmac
import os
import secrets

from nodedb_node import log
from nodedb_node.errors import Exit, StartError
from nodedb_node.files import Watched

NAME = "admin.token"
BYTES_MIN = 16
BYTES_MAX = 4_096


class AdminToken:
    """The token of `[http] token_file`, or of the data directory's own file."""

    def __init__(self, token_file: str, data_dir: str) -> None:
        self.path = token_file or os.path.join(data_dir, NAME)
        if not token_file:
            _make(self.path)
        self._token = read(self.path)
        self._file = Watched([self.path])

    def matches(self, shown: bytes) -> bool:
        """In constant time; looks whether the file was replaced."""
        if self._file.changed():
            try:
                self._token = read(self.path)
            except StartError as error:
                log.error("the admin token cannot be used; the one before counts still", reason=error)
        return hmac.compare_digest(shown, self._token)


def read(path: str) -> bytes:
    """The token in a file; raises StartError."""
    try:
        with open(path, "rb") as file:
            token = file.read(BYTES_MAX).strip()
    except OSError as error:
        raise StartError(Exit.CONFIG, f"admin token {path} cannot be read: {error.strerror}") from error
    if len(token) < BYTES_MIN:
        raise StartError(Exit.CONFIG, f"admin token {path} is shorter than {BYTES_MIN} bytes")
    return token


def _make(path: str) -> None:
    """A new token, unless there is one; whole or not at all."""
    if os.path.exists(path):
        return
    fresh = f"{path}.new"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, secrets.token_hex(32).encode() + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(fresh, path)
