"""python -m tests.process.seccomp COMMAND …: becomes COMMAND with io_uring forbidden the way containers forbid it
(EPERM)."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

IO_URING_SETUP = 425
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD_WORD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
SYSCALL_NUMBER_OFFSET = 0


def forbid(number: int) -> None:
    """In this process and everything it starts. The number is the same on all 64-bit Linux for calls > 424."""
    assert platform.machine() in ("x86_64", "aarch64")
    program = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (LOAD_WORD, 0, 0, SYSCALL_NUMBER_OFFSET),
            (JUMP_EQUAL, 0, 1, number),
            (RETURN, 0, 0, ERRNO | errno.EPERM),
            (RETURN, 0, 0, ALLOW),
        )
    )
    filters = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(filters))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0)):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    forbid(IO_URING_SETUP)
    os.execvp(sys.argv[1], sys.argv[1:])
