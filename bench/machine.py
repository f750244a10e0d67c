"""What figures were measured on, in words."""

import os
import platform
import re
from pathlib import Path


def words() -> str:
    """Return cores, processor, memory and kernel of this machine."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({model[1] if model else platform.machine()}), "
        f"{memory:.0f} GiB of memory, Linux {platform.release().split('-')[0]}, no GPU"
    )
