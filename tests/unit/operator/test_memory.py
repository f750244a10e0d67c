import subprocess
import sys

import pytest

HEAPS = """
import ctypes, sys, threading
from finetune_operator.__main__ import return_memory
if sys.argv[1] == "shared":
    return_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
libc.free.argtypes = libc.fclose.argtypes = [ctypes.c_void_p]
libc.malloc.argtypes = [ctypes.c_size_t]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
thread = threading.Thread(target=libc.malloc, args=(10_000,))
thread.start()
thread.join()
stream = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, stream)
libc.fclose(stream)
"""


@pytest.mark.parametrize(("how", "shared"), [("shared", True), ("default", False)])
def test_threads_share_one_heap(how: str, shared: bool) -> None:
    """The second case shows that the test can detect a second heap."""
    code = f"import sys; sys.path[:0] = {sys.path!r}" + HEAPS
    done = subprocess.run([sys.executable, "-c", code, how], capture_output=True, check=True)
    assert (done.stdout.count(b"<heap nr=") == 1) == shared


LARGE = """
import ctypes, sys
from finetune_operator.__main__ import return_memory
if sys.argv[1] == "returned":
    return_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.free(libc.malloc(4 << 20))
large, after = libc.malloc(3 << 20), libc.malloc(1000)
ctypes.memset(large, 1, 3 << 20)

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

before = resident()
libc.free(large)
print(before - resident())
"""


@pytest.mark.parametrize(("how", "returned"), [("returned", True), ("default", False)])
def test_large_blocks_are_returned_to_the_kernel(how: str, returned: bool) -> None:
    """Also if a smaller block was allocated after them."""
    code = f"import sys; sys.path[:0] = {sys.path!r}" + LARGE
    done = subprocess.run([sys.executable, "-c", code, how], capture_output=True, check=True)
    assert (int(done.stdout) > 2 << 20) == returned, "of 3 MiB"
