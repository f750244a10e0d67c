"""Create, find and remove the mounts of the cluster."""

from __future__ import annotations

import re
from pathlib import Path

from cluster.shell import run


def below(*folders: Path) -> list[Path]:
    """Return the mount points at or below these folders, innermost first."""
    points = mount_points(Path("/proc/self/mountinfo").read_text())
    return [
        point for point in points[::-1] if any(point.is_relative_to(folder) for folder in folders)
    ]


def mount_points(table: str) -> list[Path]:
    """Return the mount points of a mountinfo table, in its order."""
    # The kernel writes spaces and some other characters as octal escapes.
    return [
        Path(re.sub(r"\\(\d{3})", lambda match: chr(int(match.group(1), 8)), line.split()[4]))
        for line in table.splitlines()
    ]


def tmpfs(folder: Path, size: str) -> None:
    """Mount a tmpfs of that size on the folder, unless one is mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder not in below(folder):
        options = f"size={size},mode=0755"
        run(["mount", "-t", "tmpfs", "-o", options, "finetune-operator", str(folder)])


def unmount_below(*folders: Path) -> None:
    """Unmount everything at or below these folders, busy mounts lazily."""
    for point in below(*folders):
        if run(["umount", str(point)], check=False).returncode != 0:
            run(["umount", "--lazy", str(point)], check=False)
