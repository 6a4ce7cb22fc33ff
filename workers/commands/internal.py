"""Rows of the node's own commands, never accepted from a client: parts that Python-side commands are composed of.

The functions are in csrc/cmd_node.c. Data only.
"""

from functools import partial

from workers.commands.row import Flag, make_row

row = partial(make_row, family="internal")

# fmt: off
ROWS = (
    row("nd.expire", 48, 3, "write", "1.0.0",
        "Deletes a key if it still has the expiry that was seen and that has come.", function="nd_expire",
        keys="RM delete", more_flags=Flag.INTERNAL),
    row("nd.flush", 49, 1, "write", "1.0.0", "Deletes every key of a group.", function="nd_flush",
        more_flags=Flag.INTERNAL | Flag.GROUP_ALL),
    row("nd.dbsize", 50, 1, "readonly", "1.0.0", "The rows of a worker.", function="nd_dbsize",
        more_flags=Flag.INTERNAL | Flag.WORKER),
    row("nd.randomkey", 51, 1, "readonly", "1.0.0", "The rows of a worker and a random key of it.",
        function="nd_randomkey", more_flags=Flag.INTERNAL | Flag.WORKER),
    row("nd.scan", 52, -2, "readonly", "1.0.0", "A bounded part of a worker's keys and the cursor for the next part.",
        function="nd_scan", more_flags=Flag.INTERNAL | Flag.WORKER),
)
# fmt: on
