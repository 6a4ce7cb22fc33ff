"""Rows of commands about users; their handlers are in workers/frontend/acl.py. Data only."""

from functools import partial

from workers.commands.row import make_row

row = partial(make_row, family="server")
FOR_ALL = "noscript loading stale"
FOR_ADMINS = "admin noscript loading stale"

# fmt: off
ROWS = (
    row("acl", 384, -2, "", "6.0.0", "Users and their rules; a container of subcommands."),
    row("acl|cat", 385, -2, FOR_ALL, "6.0.0", "The categories of commands, or the commands of one."),
    row("acl|deluser", 386, -3, FOR_ADMINS, "6.0.0", "Deletes users and closes their connections."),
    row("acl|dryrun", 387, -4, FOR_ADMINS, "7.0.0", "Whether a user may run a command, without running it."),
    row("acl|genpass", 388, -2, FOR_ALL, "6.0.0", "A random password."),
    row("acl|getuser", 389, 3, FOR_ADMINS, "6.0.0", "One user."),
    row("acl|help", 390, 2, "loading stale", "6.0.0", "The subcommands of ACL."),
    row("acl|list", 391, 2, FOR_ADMINS, "6.0.0", "Every user as rules."),
    row("acl|load", 392, 2, FOR_ADMINS, "6.0.0", "Refused: users are kept in the catalog, not in a file."),
    row("acl|log", 393, -2, FOR_ADMINS, "6.0.0", "What clients were refused lately."),
    row("acl|save", 394, 2, FOR_ADMINS, "6.0.0", "Refused: users are kept in the catalog, not in a file."),
    row("acl|setuser", 395, -3, FOR_ADMINS, "6.0.0", "Makes a user, or changes its rules."),
    row("acl|users", 396, 2, FOR_ADMINS, "6.0.0", "The names of the users."),
    row("acl|whoami", 397, 2, FOR_ALL, "6.0.0", "The connection's user."),
)
# fmt: on
