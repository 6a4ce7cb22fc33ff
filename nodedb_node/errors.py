"""Everything that can go wrong, by kind, and the one table from kind to what a client or a shell sees.

Invariant: an error text says what happened and what to do next, and its first word tells a client whether to retry.
Errors of commands that Redis has too keep Redis's words; those that only one command has are beside it. Programmer
errors are assertions, not kinds of this file.
"""

from enum import Enum

import msgspec

# All that msgspec raises for bytes that it cannot read: also words that are not UTF-8, and nesting without end.
UNREADABLE: tuple[type[Exception], ...] = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Kind(Enum):
    """Kinds of refusal a client can meet; the value is the RESP error text, with fields to fill in."""

    OVERLOAD = "OVERLOAD retry_ms={retry_ms} {what}"
    NOSPACE = "NOSPACE writes are refused until disk space is free; reads are served"
    UNKNOWN = "UNKNOWN the outcome of this write is not known; read before writing again"
    DEADLINE = "DEADLINE not done within {deadline_ms} ms; it was not applied"
    TRYAGAIN = "TRYAGAIN {what}; send it again"
    CLUSTERDOWN = "CLUSTERDOWN Hash slot not served"
    HALTED = "CLUSTERDOWN group {group} is halted here, others serve: {why}; see docs/operations.md, Halted groups"
    MOVED = "MOVED {slot} {host}:{port}"
    CROSSSLOT = "CROSSSLOT Keys in request don't hash to the same slot"
    MAXCLIENTS = "ERR max number of clients reached"
    KEY_TOO_LONG = "ERR key is longer than {bytes_max} bytes"
    SYNTAX = "ERR syntax error"
    WRONG_ARITY = "ERR wrong number of arguments for '{name}' command"
    NOPROTO = "NOPROTO unsupported protocol version"
    INTERNAL = "ERR internal error: {what}"


RETRYABLE = frozenset({Kind.OVERLOAD, Kind.DEADLINE, Kind.TRYAGAIN, Kind.CLUSTERDOWN, Kind.MOVED, Kind.NOSPACE})


class NodeError(Exception):
    """A refusal with its kind and the fields of its text."""

    def __init__(self, kind: Kind, **fields: object) -> None:
        super().__init__(kind.value.format(**fields))
        self.kind = kind

    @property
    def retryable(self) -> bool:
        return self.kind in RETRYABLE

    def text(self) -> bytes:
        """The error on one line, whatever the fields held."""
        return str(self).replace("\r", " ").replace("\n", " ").encode()

    def resp(self) -> bytes:
        """The error as a RESP reply."""
        return b"-" + self.text() + b"\r\n"


class Exit(Enum):
    """Exit codes of the command line: sysexits.h where it has a word for it."""

    OK = 0
    USAGE = 64  # the command line is wrong
    DATA = 65  # a file of the node holds what it must not
    NO_INPUT = 66  # a named file is missing
    UNAVAILABLE = 69  # a port is taken, a node does not answer
    SOFTWARE = 70  # a defect of this program
    OS = 71  # the system refused something that has no word of its own
    CANT_CREATE = 73  # a directory cannot be created or written
    IO = 74  # a disk failed
    TEMPORARY = 75  # try again: the data directory is locked by another process
    CONFIG = 78  # configuration


class StartError(Exception):
    """The node cannot start, or a verb cannot do its work: one line for the user and the exit code."""

    def __init__(self, code: Exit, line: str) -> None:
        super().__init__(line)
        self.code = code
