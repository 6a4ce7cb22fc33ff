"""Rows of commands about the connection itself; their handlers are in workers/frontend. Data only."""

from functools import partial

from workers.commands.row import make_row

row = partial(make_row, family="connection")

# fmt: off
ROWS = (
    row("ping", 256, -1, "fast", "1.0.0", "PONG, or the message given.", function="ping",
        tips=("request_policy:all_shards", "response_policy:all_succeeded")),
    row("echo", 257, 2, "loading stale fast", "1.0.0", "The message given.", function="echo"),
    row("hello", 258, -1, "noscript loading stale fast no_auth allow_busy", "6.0.0",
        "Chooses the protocol version and describes the server."),
    row("reset", 259, 1, "noscript loading stale fast no_auth allow_busy", "6.2.0",
        "Brings the connection back to its first state."),
    row("quit", 260, -1, "noscript loading stale fast no_auth allow_busy", "1.0.0", "Closes the connection."),
    row("select", 261, 2, "loading stale fast", "1.0.0", "Chooses database 0."),
    row("auth", 262, -2, "noscript loading stale fast no_auth allow_busy", "1.0.0", "Authenticates the connection."),
    row("client", 263, -2, "", "2.4.0", "The connection itself; a container of subcommands.", categories=("@slow",)),
    row("client|id", 264, 2, "noscript loading stale", "5.0.0", "The connection's number."),
    row("client|getname", 265, 2, "noscript loading stale", "2.6.9", "The connection's name."),
    row("client|setname", 266, 3, "noscript loading stale", "2.6.9", "Names the connection."),
    row("client|setinfo", 267, 4, "noscript loading stale", "7.2.0", "Names the client's library and its version."),
    row("client|no-evict", 268, 3, "admin noscript loading stale", "7.0.0",
        "Exempts the connection from eviction of clients."),
    row("client|no-touch", 269, 3, "noscript loading stale", "7.2.0",
        "Lets the connection's commands leave idle times alone."),
    row("client|info", 270, 2, "noscript loading stale", "6.2.0", "What the server knows about the connection.",
        tips=("nondeterministic_output",)),
    row("client|help", 271, 2, "loading stale", "5.0.0", "The subcommands of CLIENT."),
    row("readonly", 272, 1, "loading stale fast", "3.0.0", "Allows reads from followers on this connection."),
    row("readwrite", 273, 1, "loading stale fast", "3.0.0", "Ends READONLY."),
)
# fmt: on
