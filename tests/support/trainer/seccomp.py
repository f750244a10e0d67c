"""Install system call filters, seccomp(2), in the calling process; they cannot be removed."""

import ctypes
import struct
from collections.abc import Sequence


def install(program: Sequence[tuple[int, int, int, int]], *, flags: int) -> int:
    """Install a classic BPF filter; return the result of seccomp(2). Raises OSError."""
    code = b"".join(struct.pack("HBBI", *each) for each in program)
    buffer = ctypes.create_string_buffer(code)
    filter_ = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, seccomp, with_filter = 38, 317, 1
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    answer: int = libc.syscall(seccomp, with_filter, flags, filter_)
    if answer < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return answer
