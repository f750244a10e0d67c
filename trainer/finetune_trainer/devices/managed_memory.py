"""Whether the GPU provides managed (unified) memory, which GPU and host share.

Some virtual GPUs do not. A library that needs it may then end the process without a message, and a
failed access makes CUDA unusable for the rest of a process. Therefore a child process tries it. The
child calls the driver alone: importing torch would take seconds.
"""

import ctypes
import subprocess
import sys
from collections.abc import Sequence

CHILD = (sys.executable, "-I", __file__)
"""Needs no path to the packages of the trainer: a child that cannot start would be a problem."""
TIMEOUT = 60
"""Seconds. Starting CUDA takes less than one, and several where the driver is not loaded."""
SIZE = 1 << 20
ATTACH_HOST = 2
"""CU_MEM_ATTACH_HOST, as bitsandbytes allocates it."""


def problem(command: Sequence[str] = CHILD, *, timeout: float = TIMEOUT) -> str | None:
    """Return why managed memory cannot be used, or None if it can."""
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"a process that tries it did not end within {timeout:g} seconds"
    if ended.returncode == 0:
        return None
    return ended.stdout.strip() or f"a process that tries it ended with code {ended.returncode}"


def main() -> None:
    """Exit with code 1, and print the failed call, if the GPU has no managed memory.

    If the process cannot use the GPU at all, nothing is known of its memory: exit with code 0.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    device, context, pointer = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    if (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), 0)
        or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
        or driver.cuCtxSetCurrent(context)
    ):
        return
    size = ctypes.c_size_t(SIZE)
    for name, arguments in (
        ("cuMemAllocManaged", (ctypes.byref(pointer), size, ctypes.c_uint(ATTACH_HOST))),
        ("cuMemsetD8_v2", (pointer, ctypes.c_ubyte(0), size)),
        ("cuCtxSynchronize", ()),
    ):
        code = getattr(driver, name)(*arguments)
        if code:
            print(f"{name} of the CUDA driver returns error {code}")
            sys.exit(1)


if __name__ == "__main__":
    main()
