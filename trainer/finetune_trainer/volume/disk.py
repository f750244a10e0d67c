"""Free space on the volume, checked before anything is written."""

import os
from pathlib import Path

from finetune_trainer.errors import VolumeFull

RESERVE = 16 * 1024 * 1024
"""Bytes kept free for manifests, the usage file and the file system itself."""


def free_bytes(folder: Path) -> int:
    """Return how many bytes an unprivileged process can still write below ``folder``."""
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


def total_bytes(folder: Path) -> int:
    """Return the size in bytes of the file system that contains ``folder``."""
    stat = os.statvfs(folder)
    return stat.f_blocks * stat.f_frsize


def require(folder: Path, needed: int, what: str) -> None:
    """Raise VolumeFull if ``needed`` bytes for ``what`` do not fit below ``folder``."""
    free = free_bytes(folder)
    if free < needed + RESERVE:
        missing = needed + RESERVE - free
        raise VolumeFull(
            f"{what} needs {human(needed)}, but only {human(free)} are free on the volume (size: "
            f"{human(total_bytes(folder))}): raise spec.storage.size by at least {human(missing)}"
        )


def sufficient(count: int) -> str:
    """Return the smallest quantity of at least ``count`` bytes in whole Gi, or Mi below 1Gi."""
    unit, bits = ("Gi", 30) if count > 1 << 30 else ("Mi", 20)
    return f"{-(-count // (1 << bits))}{unit}"


def human(count: float) -> str:
    """Format a number of bytes as Kubernetes formats quantities, for example 1.5Gi."""
    for unit in ("bytes", "Ki", "Mi", "Gi"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f}{unit}"
        count /= 1024
    return f"{count:.1f}Ti"
