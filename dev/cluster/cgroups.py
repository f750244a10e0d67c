"""Our cgroup: one folder on a unified machine (v2), one in each hierarchy on others (v1).

Pods lie below it, so that all that runs in the cluster can be found and ended.
"""

from __future__ import annotations

from pathlib import Path

from cluster.errors import Unsupported
from cluster.settings import CGROUP

ROOT = Path("/sys/fs/cgroup")
# What the kubelet cannot do without.
NEEDED = ("cpu", "cpuset", "memory", "pids")
WEIGHTS = {"cpu.weight": "200", "cpu.shares": "2048"}
"""Twice the usual weight, for v2 and v1."""
CPUSET = ("cpuset.cpus", "cpuset.mems")


def unified(root: Path = ROOT) -> bool:
    """Whether this is v2; a v1 machine may have a v2 hierarchy without controllers beside."""
    return (root / "cgroup.controllers").exists()


def folders(root: Path = ROOT) -> list[Path]:
    """Where ours is, or will be."""
    if unified(root):
        return [root / CGROUP]
    return [parent / CGROUP for parent in root.iterdir() if (parent / "cgroup.procs").exists()]


def make(root: Path = ROOT) -> None:
    """Make ours, with all controllers that there are. Raises Unsupported."""
    present = _controllers(root)
    missing = [name for name in NEEDED if name not in present]
    if missing:
        raise Unsupported(
            f"this kernel offers no cgroup controller {', '.join(missing)} in {root}",
            hint="start it with cgroup_enable=memory, or use your own cluster: "
            "make run CLUSTER=current",
        )
    if unified(root):
        _pass_on(root, present)
    for folder in folders(root):
        folder.mkdir(exist_ok=True)
        if not unified(root):
            _fill_cpuset(folder)


def prefer(root: Path = ROOT) -> None:
    """Give pods twice the CPU time of the programs that compute next to them."""
    for folder in folders(root):
        for name, value in WEIGHTS.items():
            if (folder / name).exists():
                (folder / name).write_text(value)


def _controllers(root: Path) -> list[str]:
    if unified(root):
        return (root / "cgroup.controllers").read_text().split()
    # Several controllers may share a hierarchy: cpu,cpuacct.
    return [name for folder in root.iterdir() for name in folder.name.split(",")]


def _pass_on(root: Path, controllers: list[str]) -> None:
    """Let folders below the root of v2 use the controllers."""
    subtree = root / "cgroup.subtree_control"
    for name in controllers:
        if name in subtree.read_text().split():
            continue
        try:
            subtree.write_text(f"+{name}")
        except OSError as error:
            if name in NEEDED:
                raise Unsupported(
                    f"the cgroup controller {name} cannot be passed on in {root}: {error}",
                    hint="inside a container processes must not lie in the cgroup's root; use the "
                    "machine itself, or your own cluster: make run CLUSTER=current",
                ) from error


def _fill_cpuset(folder: Path) -> None:
    """A new cpuset of v1 is empty, and nothing can run in it; one of v2 has its parent's."""
    for name in CPUSET:
        file = folder / name
        if file.exists() and not file.read_text().strip():
            file.write_text((folder.parent / name).read_text())
