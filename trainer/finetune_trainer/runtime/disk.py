"""Is there room? Asked before anything is written, and answered with figures."""

import os
from pathlib import Path

from finetune_trainer.errors import VolumeFull

RESERVE = 16 * 1024 * 1024
"""Bytes kept free for manifests, the usage file and the file system's own needs."""


def free_bytes(folder: Path) -> int:
    """Bytes that an unprivileged process may still write below ``folder``."""
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


def total_bytes(folder: Path) -> int:
    """Size of the file system that ``folder`` lies on."""
    stat = os.statvfs(folder)
    return stat.f_blocks * stat.f_frsize


def require(folder: Path, needed: int, what: str) -> None:
    """Refuse with VolumeFull where ``needed`` bytes for ``what`` do not fit below ``folder``."""
    free = free_bytes(folder)
    if free < needed + RESERVE:
        missing = needed + RESERVE - free
        raise VolumeFull(
            f"{what} needs {human(needed)}, the volume has {human(free)} free of "
            f"{human(total_bytes(folder))}: raise spec.storage.size by at least {human(missing)}"
        )


def human(count: float) -> str:
    """Write a number of bytes the way Kubernetes writes sizes."""
    for unit in ("bytes", "Ki", "Mi", "Gi"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f}{unit}"
        count /= 1024
    return f"{count:.1f}Ti"
