"""Rows of the string commands; the functions are in csrc/cmd_string.c. Data only."""

from functools import partial

from workers.commands.row import make_row

row = partial(make_row, family="string")

# fmt: off
ROWS = (
    row("set", 1, -3, "write denyoom", "1.0.0", "Stores a value, with conditions and an expiry if asked.",
        function="set", keys="RW access update variable_flags"),
    row("get", 2, 2, "readonly fast", "1.0.0", "The value of a key.", function="get", keys="RO access"),
    row("setnx", 3, 3, "write denyoom fast", "1.0.0", "Stores a value if the key is absent.", function="setnx",
        keys="OW insert"),
    row("setex", 4, 4, "write denyoom", "2.0.0", "Stores a value that expires after seconds.", function="setex",
        keys="OW update"),
    row("psetex", 5, 4, "write denyoom", "2.6.0", "Stores a value that expires after milliseconds.",
        function="psetex", keys="OW update"),
    row("getset", 6, 3, "write denyoom fast", "1.0.0", "Stores a value and returns the one before it.",
        function="getset", keys="RW access update"),
    row("getdel", 7, 2, "write fast", "6.2.0", "Returns a value and deletes its key.", function="getdel",
        keys="RW access delete"),
    row("getex", 8, -2, "write fast", "6.2.0", "Returns a value and changes its expiry.", function="getex",
        keys="RW access update"),
    row("mget", 9, -2, "readonly fast", "1.0.0", "The values of several keys.", function="mget", keys="RO access",
        at=(1, -1, 1), tips=("request_policy:multi_shard",)),
    row("mset", 10, -3, "write denyoom", "1.0.1", "Stores several values at once.", function="mset", keys="OW update",
        at=(1, -1, 2), tips=("request_policy:multi_shard", "response_policy:all_succeeded")),
    row("msetnx", 11, -3, "write denyoom", "1.0.1", "Stores several values if none of the keys exists.",
        function="msetnx", keys="OW insert", at=(1, -1, 2),
        tips=("request_policy:multi_shard", "response_policy:agg_min")),
    row("append", 12, 3, "write denyoom fast", "2.0.0", "Adds bytes to the end of a value.", function="append",
        keys="RW insert"),
    row("strlen", 13, 2, "readonly fast", "2.2.0", "The length of a value in bytes.", function="strlen", keys="RO"),
    row("getrange", 14, 4, "readonly", "2.4.0", "The bytes of a value between two positions.", function="getrange",
        keys="RO access"),
    row("substr", 15, 4, "readonly", "1.0.0", "The bytes of a value between two positions (old name of GETRANGE).",
        function="getrange", keys="RO access"),
    row("setrange", 16, 4, "write denyoom", "2.2.0", "Overwrites the bytes of a value from a position on.",
        function="setrange", keys="RW update"),
    row("incr", 17, 2, "write denyoom fast", "1.0.0", "Adds one to an integer value.", function="incr",
        keys="RW access update"),
    row("decr", 18, 2, "write denyoom fast", "1.0.0", "Takes one from an integer value.", function="decr",
        keys="RW access update"),
    row("incrby", 19, 3, "write denyoom fast", "1.0.0", "Adds to an integer value.", function="incrby",
        keys="RW access update"),
    row("decrby", 20, 3, "write denyoom fast", "1.0.0", "Takes from an integer value.", function="decrby",
        keys="RW access update"),
    row("incrbyfloat", 21, 3, "write denyoom fast", "2.6.0", "Adds to a value that is a decimal number.",
        function="incrbyfloat", keys="RW access update"),
)
# fmt: on
