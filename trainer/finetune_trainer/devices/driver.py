"""The version of the NVIDIA driver on the node."""

import ctypes

LIBRARY = "libnvidia-ml.so.1"
_LONGEST = 80
"""Bytes that the library asks callers to provide (NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE)."""


def version() -> str | None:
    """Return the version, such as 580.65.06; None without a driver."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    text = ctypes.create_string_buffer(_LONGEST)
    if library.nvmlInit_v2():
        return None
    failed = library.nvmlSystemGetDriverVersion(text, ctypes.c_uint(_LONGEST))
    library.nvmlShutdown()
    return None if failed else text.value.decode(errors="replace") or None
