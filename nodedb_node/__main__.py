"""nodedb-node: the entry point of every verb."""

import sys

from nodedb_node.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
