"""Rows of the bitmap commands; the functions are in csrc/cmd_bitmap.c. Data only."""

from functools import partial

from workers.commands.row import KeySpec, make_row

row = partial(make_row, family="bitmap")

# fmt: off
ROWS = (
    row("setbit", 64, 4, "write denyoom", "2.2.0", "Sets one bit of a value and returns what it was.",
        function="setbit", keys="RW access update"),
    row("getbit", 65, 3, "readonly fast", "2.2.0", "One bit of a value.", function="getbit", keys="RO access"),
    row("bitcount", 66, -2, "readonly", "2.6.0", "The number of set bits in a value or a part of it.",
        function="bitcount", keys="RO access"),
    row("bitpos", 67, -3, "readonly", "2.8.7", "The first bit of a given kind in a value or a part of it.",
        function="bitpos", keys="RO access"),
    row("bitop", 68, -4, "write denyoom", "2.6.0", "Stores the bitwise combination of values.", function="bitop",
        specs=(KeySpec(2, 2, 1, "OW update"), KeySpec(3, -1, 1, "RO access"))),
    row("bitfield", 69, -2, "write denyoom", "3.2.0", "Reads and changes integers of any width inside a value.",
        function="bitfield", keys="RW access update variable_flags"),
    row("bitfield_ro", 70, -2, "readonly fast", "6.0.0", "Reads integers of any width inside a value.",
        function="bitfield_ro", keys="RO access"),
)
# fmt: on
