"""csrc/pin.h: what a process asks of the kernel about itself. World file: every call changes the calling process."""

import os

from nodedb_node._native import lib


def die_with_parent(parent_pid: int) -> None:
    """Be killed when the parent dies; raises OSError where the kernel refuses, SystemExit when it is dead already."""
    code = lib.nd_pin_die_with_parent(parent_pid)
    if os.getppid() != parent_pid:
        raise SystemExit(1)
    if code != 0:
        raise OSError(-code, os.strerror(-code))


def set_name(name: str) -> None:
    """The name that ps and top show; cut to 15 bytes."""
    lib.nd_pin_name(name.encode())


def prefer_memory(node: int) -> int:
    """Allocate from this NUMA node where it has room; 0 or the errno of the refusal."""
    return -int(lib.nd_pin_memory(node))
