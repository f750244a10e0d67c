"""Describe the machine of a benchmark."""

import os
import platform
import re
from pathlib import Path

CARDS = Path("/proc/driver/nvidia/gpus")


def description() -> str:
    """Return cores, CPU model, memory, kernel and GPUs of this machine."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({model[1] if model else platform.machine()}), "
        f"{memory:.0f} GiB of memory, Linux {platform.release().split('-')[0]}, "
        f"{', '.join(_cards()) or 'no GPU'}"
    )


def _cards() -> list[str]:
    information = "".join(path.read_text() for path in sorted(CARDS.glob("*/information")))
    return re.findall(r"^Model:\s*(.*)$", information, re.M)
