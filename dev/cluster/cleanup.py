"""Remove all traces of the local cluster, and nothing else.

The traces are recognized by references to the cluster: shims by the containerd socket in their
command line, mounts by their folders, firewall chains by the prefixes of kube-proxy and
kube-router.
No component of the cluster needs to run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from pathlib import Path

from cluster import paths
from cluster.artifacts import images, registry
from cluster.components import containers
from cluster.errors import ClusterError
from cluster.host import cgroups, files, mounts, network, processes
from cluster.phases import say
from cluster.settings import CNI_NETWORK
from cluster.shell import run

# Controllers that restart other processes come first, their dependencies last.
ORDER = (
    "kubelet",
    "local-path-provisioner",
    "kube-controller-manager",
    "kube-scheduler",
    "containerd",
    "kube-router",
    "kube-proxy",
    "kube-apiserver",
    "etcd",
    "registry",
)
CHAIN_PREFIXES = ("KUBE-ROUTER-", "KUBE-NWPLCY-", "KUBE-POD-FW-", "KUBE-KUBELET-CANARY")
# Prefixes of the address sets of kube-router.
SET_PREFIXES = ("KUBE-SRC-", "KUBE-DST-", "kube-router-", "inet6:KUBE-", "inet6:kube-router-")
# Folders that kubelet, containerd and CNI plugins use regardless of their settings.
FOLDERS = (
    "/etc/cni",
    "/run/containerd",
    "/usr/libexec/kubernetes",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
)
CREATED = paths.STATE / "created-folders.json"
HOST_PROGRAMS = ("containerd", "docker-registry")
MARKS = (paths.PKI, paths.ETC, paths.ETCD_DATA, registry.CONFIG)
PROXY_TABLES = (("ip", "kube-proxy"), ("ip6", "kube-proxy"))


def remove_all(*, keep: tuple[str, ...] = ()) -> None:
    """Stop and remove the cluster, except for the processes in ``keep``.

    Programs, images and the content of the hub stay in the cache.
    """
    processes.stop("kubelet")
    _remove_containers()
    others = [name for name in processes.recorded() if name not in ORDER]
    for name in (*ORDER, *others):
        if name not in keep:
            processes.stop(name)
    end_unrecorded()
    if "registry" not in keep and registry.CONFIG.exists():
        registry.collect()
    _end_shims()
    mounts.unmount_below(paths.RUN, paths.STATE)
    _remove_firewall()
    network.down()
    _remove_cgroups()
    _remove_files(keep)


def _remove_containers() -> None:
    """Remove the containers with containerd, so that the next cluster can reuse its storage."""
    config = paths.ETC / "containerd.toml"
    if not (config.exists() and paths.CONTAINERD_ROOT.exists()):
        return
    try:
        if processes.alive("containerd") is None:
            end_unrecorded()
            containers.start_as_configured()
        containers.remove_all()
        images.prune_containerd()
    except ClusterError as error:
        # The shims are killed later; the next start removes the remaining records.
        say(f"    containerd could not remove its containers: {error}")


def end_unrecorded() -> None:
    """Terminate processes of the cluster that have no record, left by an interrupted start.

    The program name is not sufficient, because the tests run the same programs: an argument must
    name a file of the state of the cluster.
    """
    recorded = {record.pid for name in processes.recorded() if (record := processes.alive(name))}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) in recorded:
            continue
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        owned = words[0].startswith(str(paths.BINARIES)) or words[0] in HOST_PROGRAMS
        if owned and any(str(mark) in word for word in words[1:] for mark in MARKS):
            pid = int(folder.name)
            started = processes.start_time(pid)
            if started is not None:
                processes.end(pid, started)


def remember_folders() -> None:
    """Record which of ``FOLDERS`` do not exist yet, so that only those are removed."""
    if not CREATED.exists():
        files.write(CREATED, json.dumps([name for name in FOLDERS if not os.path.exists(name)]))


def _end_shims() -> None:
    """Kill the shims of the containerd of the cluster, and their descendants."""
    socket = str(paths.CONTAINERD_SOCKET)
    for _ in range(50):
        owned = _shims_and_children(socket)
        if not owned:
            return
        for pid in owned:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        time.sleep(0.1)


def _shims_and_children(socket: str) -> list[int]:
    parents: dict[int, int] = {}
    owned: set[int] = set()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        pid = int(folder.name)
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            status = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if status[0] in "ZX":
            continue
        parents[pid] = int(status[1])
        if "containerd-shim" in words[0] and socket in words:
            owned.add(pid)
    # If its shim was killed, a container is a child of init, but still in the cgroup.
    for cgroup in cgroups.folders():
        for file in cgroup.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                owned.update(int(pid) for pid in file.read_text().split())
    grown = True
    while grown:
        below = {pid for pid, parent in parents.items() if parent in owned} - owned
        owned |= below
        grown = bool(below)
    return sorted(pid for pid in owned if pid in parents)


def _remove_firewall() -> None:
    for family, table in PROXY_TABLES:
        run(["nft", "delete", "table", family, table], check=False)
    for tool in ("iptables", "ip6tables"):
        if shutil.which(f"{tool}-save"):
            _remove_chains(tool)
    names = run(["ipset", "list", "-name"], check=False).stdout.split()
    for name in names:
        if name.startswith(SET_PREFIXES):
            run(["ipset", "destroy", name], check=False)


def _remove_chains(tool: str) -> None:
    """Delete the chains of the cluster and the rules that jump to them, table by table."""
    text = chain_removal(run([f"{tool}-save"], check=False).stdout)
    if text:
        run([f"{tool}-restore", "--noflush"], stdin=text, check=False)


def chain_removal(saved: str) -> str:
    """Return the input of iptables-restore for an output of iptables-save; empty without chains."""
    table = ""
    changes: dict[str, list[str]] = {}
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line
        elif line.startswith(":") and line[1:].startswith(CHAIN_PREFIXES):
            chain = line[1:].split()[0]
            changes.setdefault(table, []).extend([f"-F {chain}", f"-X {chain}"])
        elif (
            line.startswith("-A ")
            and not line.split()[1].startswith(CHAIN_PREFIXES)
            and any(f" -j {prefix}" in line for prefix in CHAIN_PREFIXES)
        ):
            changes.setdefault(table, []).append("-D " + line.removeprefix("-A "))
    # Delete the jumps to a chain and its rules before the chain itself.
    rank = {"-D": 0, "-F": 1, "-X": 2}
    return "".join(
        "\n".join([name, *sorted(commands, key=lambda command: rank[command[:2]]), "COMMIT", ""])
        for name, commands in changes.items()
    )


def _remove_cgroups() -> None:
    for folder in cgroups.folders():
        if folder.is_dir():
            below = sorted(path for path in folder.rglob("*") if path.is_dir())
            for path in [*below[::-1], folder]:
                with contextlib.suppress(OSError):
                    path.rmdir()


def _remove_files(keep: tuple[str, ...]) -> None:
    logs = Path("/var/log/containers")
    if logs.is_dir():
        for link in logs.iterdir():
            if link.is_symlink() and Path(os.readlink(link)).is_relative_to(paths.STATE):
                link.unlink()
    for result in Path("/var/lib/cni/results").glob(f"{CNI_NETWORK}-*"):
        result.unlink(missing_ok=True)
    for folder in json.loads(CREATED.read_text()) if CREATED.exists() else []:
        shutil.rmtree(folder, ignore_errors=True)
    # Never delete below a mount: it can be a folder of the user.
    left = mounts.below(paths.RUN, paths.STATE)
    if left:
        raise ClusterError(
            f"still mounted: {', '.join(map(str, left))}",
            hint="stop the processes that use these mounts, then run the same command again",
        )
    # The logs stay until the next start, for troubleshooting.
    for path in paths.STATE.glob("*"):
        if path not in (paths.LOGS, paths.PIDS):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    # Without its record, a kept process would look like another program on its port.
    processes.forget_all(keep=keep)
    shutil.rmtree(paths.RUN, ignore_errors=True)
