"""The cgroup of the cluster: one folder with cgroup v2, one in each hierarchy with cgroup v1.

All pods are below it, so that all their processes can be found and terminated.
"""

from __future__ import annotations

from pathlib import Path

from cluster.errors import Unsupported
from cluster.settings import CGROUP

ROOT = Path("/sys/fs/cgroup")
# Controllers that the kubelet requires.
NEEDED = ("cpu", "cpuset", "memory", "pids")
WEIGHTS = {"cpu.weight": "800", "cpu.shares": "8192"}
"""Eight times the default weight, for v2 and v1: with v1, each process outside has the default
weight, and next to the tests a training on a CPU without AMX would take half an hour."""
CPUSET = ("cpuset.cpus", "cpuset.mems")


def unified(root: Path = ROOT) -> bool:
    """Report whether this is v2. A v1 machine can also have a v2 hierarchy without controllers."""
    return (root / "cgroup.controllers").exists()


def folders(root: Path = ROOT) -> list[Path]:
    """Return the folders of the cgroup, which may not exist yet."""
    if unified(root):
        return [root / CGROUP]
    return [parent / CGROUP for parent in root.iterdir() if (parent / "cgroup.procs").exists()]


def make(root: Path = ROOT) -> None:
    """Create the cgroup with all available controllers. Raises Unsupported."""
    present = _controllers(root)
    missing = [name for name in NEEDED if name not in present]
    if missing:
        raise Unsupported(
            f"the kernel has no cgroup controller {', '.join(missing)} in {root}",
            hint="boot the kernel with cgroup_enable=memory, or use your own cluster: "
            "make run CLUSTER=current",
        )
    if unified(root):
        _enable_controllers(root, present)
    for folder in folders(root):
        folder.mkdir(exist_ok=True)
        if not unified(root):
            _fill_cpuset(folder)


def prefer() -> None:
    """Give pods a larger CPU weight than other programs on the machine."""
    for folder in folders(ROOT):
        for name, value in WEIGHTS.items():
            if (folder / name).exists():
                (folder / name).write_text(value)


def cpu_seconds(root: Path = ROOT) -> float:
    """Return the CPU time of all pods since the cgroup exists; 0 without the cgroup."""
    for folder in folders(root):
        if (file := folder / "cpuacct.usage").exists():
            return int(file.read_text()) / 1e9
        if (file := folder / "cpu.stat").exists() and unified(root):
            values = dict(line.split() for line in file.read_text().splitlines())
            return int(values["usage_usec"]) / 1e6
    return 0.0


def _controllers(root: Path) -> list[str]:
    if unified(root):
        return (root / "cgroup.controllers").read_text().split()
    # Controllers can share a hierarchy, for example cpu,cpuacct.
    return [name for folder in root.iterdir() for name in folder.name.split(",")]


def _enable_controllers(root: Path, controllers: list[str]) -> None:
    """Enable the controllers for the folders below the root of v2."""
    subtree = root / "cgroup.subtree_control"
    for name in controllers:
        if name in subtree.read_text().split():
            continue
        try:
            subtree.write_text(f"+{name}")
        except OSError as error:
            if name in NEEDED:
                raise Unsupported(
                    f"cannot enable the cgroup controller {name} in {subtree}: {error}",
                    hint="the cluster cannot run in a container with processes in its root cgroup; "
                    "run it on the machine itself, or use your own cluster: "
                    "make run CLUSTER=current",
                ) from error


def _fill_cpuset(folder: Path) -> None:
    """Copy the cpuset of the parent: a new cpuset of v1 is empty, and no process can run in it."""
    for name in CPUSET:
        file = folder / name
        if file.exists() and not file.read_text().strip():
            file.write_text((folder.parent / name).read_text())
