"""Entry of a worker process: `python -m workers --boot-fd N`, started by the supervisor."""

import sys

from nodedb_node.supervisor import child
from workers import worker


def main() -> int:
    boot = child.enter(sys.argv)
    return worker.run(boot)


if __name__ == "__main__":
    sys.exit(main())
