"""Rows of the commands on keys of any type; the functions are in csrc/cmd_generic.c. Data only."""

from functools import partial

from workers.commands.row import KeySpec, make_row

row = partial(make_row, family="generic")

# fmt: off
ROWS = (
    row("del", 80, -2, "write", "1.0.0", "Deletes keys.", function="delete", keys="RM delete", at=(1, -1, 1),
        tips=("request_policy:multi_shard", "response_policy:agg_sum")),
    row("unlink", 81, -2, "write fast", "4.0.0",
        "Deletes keys (the same as DEL here: memory is always given back in pieces).", function="delete",
        keys="RM delete", at=(1, -1, 1), tips=("request_policy:multi_shard", "response_policy:agg_sum")),
    row("exists", 82, -2, "readonly fast", "1.0.0", "The number of given keys that exist.", function="exists",
        keys="RO", at=(1, -1, 1), tips=("request_policy:multi_shard", "response_policy:agg_sum")),
    row("type", 83, 2, "readonly fast", "1.0.0", "The type of a key's value.", function="type", keys="RO"),
    row("ttl", 84, 2, "readonly fast", "1.0.0", "The seconds until a key expires.", function="ttl", keys="RO access",
        tips=("nondeterministic_output",)),
    row("pttl", 85, 2, "readonly fast", "2.6.0", "The milliseconds until a key expires.", function="pttl",
        keys="RO access", tips=("nondeterministic_output",)),
    row("expire", 86, -3, "write fast", "1.0.0", "Lets a key expire after seconds.", function="expire",
        keys="RW update"),
    row("pexpire", 87, -3, "write fast", "2.6.0", "Lets a key expire after milliseconds.", function="pexpire",
        keys="RW update"),
    row("expireat", 88, -3, "write fast", "1.2.0", "Lets a key expire at a Unix time in seconds.",
        function="expireat", keys="RW update"),
    row("pexpireat", 89, -3, "write fast", "2.6.0", "Lets a key expire at a Unix time in milliseconds.",
        function="pexpireat", keys="RW update"),
    row("expiretime", 90, 2, "readonly fast", "7.0.0", "The Unix time in seconds at which a key expires.",
        function="expiretime", keys="RO access"),
    row("pexpiretime", 91, 2, "readonly fast", "7.0.0", "The Unix time in milliseconds at which a key expires.",
        function="pexpiretime", keys="RO access"),
    row("persist", 92, 2, "write fast", "2.2.0", "Removes a key's expiry.", function="persist", keys="RW update"),
    row("rename", 93, 3, "write", "1.0.0", "Gives a key another name, replacing what has that name.",
        function="rename", specs=(KeySpec(1, 1, 1, "RW access delete"), KeySpec(2, 2, 1, "OW update"))),
    row("renamenx", 94, 3, "write fast", "1.0.0", "Gives a key another name if that is free.", function="renamenx",
        specs=(KeySpec(1, 1, 1, "RW access delete"), KeySpec(2, 2, 1, "OW insert"))),
    row("copy", 95, -3, "write denyoom", "6.2.0", "Copies a key's value and expiry to another key.", function="copy",
        specs=(KeySpec(1, 1, 1, "RO access"), KeySpec(2, 2, 1, "OW update"))),
    row("touch", 96, -2, "readonly fast", "3.2.1", "Marks keys as used; returns the number that exist.",
        function="touch", keys="RO", at=(1, -1, 1), tips=("request_policy:multi_shard", "response_policy:agg_sum")),
    row("object", 97, -2, "", "2.2.3", "What is known about a key's value; a container of subcommands.",
        categories=("@slow",)),
    row("object|encoding", 98, 3, "readonly", "2.2.3", "How Redis would encode a key's value.",
        function="object_encoding", keys="RO", at=(2, 2, 1), tips=("nondeterministic_output",)),
    row("object|freq", 99, 3, "readonly", "4.0.0", "How often a key is used (needs an LFU policy).",
        function="object_freq", keys="RO", at=(2, 2, 1), tips=("nondeterministic_output",)),
    row("object|idletime", 100, 3, "readonly", "2.2.3", "The seconds since a key was used.",
        function="object_idletime", keys="RO", at=(2, 2, 1), tips=("nondeterministic_output",)),
    row("object|refcount", 101, 3, "readonly", "2.2.3", "The references to a key's value.",
        function="object_refcount", keys="RO", at=(2, 2, 1), tips=("nondeterministic_output",)),
    row("object|help", 102, 2, "loading stale", "6.2.0", "The subcommands of OBJECT.", function="object_help"),
)
# fmt: on
