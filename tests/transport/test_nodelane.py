"""What opening a lane leaves behind in its process."""

import gc
import sys

from nodedb_node.transport import nodelane


def test_an_import_leaves_the_interpreter_as_it_was() -> None:
    before = sys.getswitchinterval()
    frozen = gc.get_freeze_count()
    try:
        nodelane._imported()
        assert sys.getswitchinterval() == before and gc.isenabled()
        assert gc.get_freeze_count() > frozen, "collections look at what was imported"
    finally:
        gc.unfreeze()
