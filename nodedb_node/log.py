"""The log of every process: logfmt lines on standard error, one line per event, with process=.

Invariant: a line is one write below PIPE_BUF where the event is short, so lines of several processes do not mix; values
that need it are quoted, control characters escaped. Nothing else in the node writes to standard error. World file.
"""

import logging
import re
import sys
import time

_LOGGER = logging.getLogger("nodedb")
_PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f]+")


def setup(process: str, level: str) -> None:
    """Send this process's log, that of libraries too (from warning), to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Logfmt(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _LOGGER.setLevel(level.upper())


class Logfmt(logging.Formatter):
    """ts level process msg, then the event's own fields."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def format(self, record: logging.LogRecord) -> str:
        ts = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        pairs: dict[str, object] = {"ts": ts, "level": record.levelname.lower(), "process": self.process}
        pairs["msg"] = record.getMessage()
        pairs.update(getattr(record, "fields", {}))
        if record.name != _LOGGER.name:
            pairs["logger"] = record.name
        if record.exc_info:
            pairs["trace"] = self.formatException(record.exc_info)
        return " ".join(f"{key}={quoted(value)}" for key, value in pairs.items())


def quoted(value: object) -> str:
    """A logfmt value: bare when it may be, else in quotes with escapes, always on one line."""
    text = ",".join(str(item) for item in value) if isinstance(value, list | tuple) else str(value)
    if _PLAIN.fullmatch(text):
        return text
    escaped = (
        text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    )
    return '"' + "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in escaped) + '"'


def _event(level: int, msg: str, fields: dict[str, object]) -> None:
    if _LOGGER.isEnabledFor(level):
        _LOGGER.log(level, "%s", msg, extra={"fields": fields})


def debug(msg: str, **fields: object) -> None:
    _event(logging.DEBUG, msg, fields)


def info(msg: str, **fields: object) -> None:
    _event(logging.INFO, msg, fields)


def warning(msg: str, **fields: object) -> None:
    _event(logging.WARNING, msg, fields)


def error(msg: str, **fields: object) -> None:
    _event(logging.ERROR, msg, fields)


def exception(msg: str, **fields: object) -> None:
    """An error with the trace of the exception being handled."""
    _LOGGER.error("%s", msg, exc_info=True, extra={"fields": fields})
