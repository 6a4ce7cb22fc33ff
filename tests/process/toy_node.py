"""nodedb-node with toy children: the real supervisor and command line, nothing that serves."""

import sys

from nodedb_node.cli.main import main
from nodedb_node.supervisor import run

run.MODULES.update(control="tests.process.toy_child", worker="tests.process.toy_child")
sys.exit(main())
