"""The configuration as every verb reads it: file, environment, flags. World file."""

import os

from nodedb_node.config import Config, Sections, resolve
from nodedb_node.errors import Exit, StartError


def load_config(path: str | None, flags: Sections) -> Config:
    """`path` is --config; without it $NODEDB_CONFIG, and without that no file at all."""
    path = path or os.environ.get("NODEDB_CONFIG")
    text = ""
    if path:
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except UnicodeDecodeError as error:
            raise StartError(Exit.CONFIG, f"{path}: not UTF-8 text: {error}") from error
        except OSError as error:
            raise StartError(Exit.NO_INPUT, f"{path}: cannot be read: {error.strerror}") from error
    return resolve(text, path or "", os.environ, flags)
