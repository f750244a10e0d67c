"""Find traces of the local cluster with the tools of the machine."""

import subprocess
from pathlib import Path

from cluster import paths
from cluster.settings import BRIDGE, CGROUP, CNI_NETWORK, FIREWALL_TABLE

OURS = (str(paths.STATE), str(paths.RUN), str(paths.CONTAINERD_ROOT))
CHAINS = ("KUBE-ROUTER", "KUBE-POD-FW", "KUBE-NWPLCY", "KUBE-KUBELET")


def output(*command: str) -> str:
    """Return the standard output of a command that must succeed."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout


def processes() -> list[str]:
    """Return the command lines that contain a folder of the cluster."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if any(folder in line for folder in OURS):
            found.append(line)
    return found


def mounts() -> list[str]:
    """Return the mounts below the folders of the cluster."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if any(folder in line.split()[4] for folder in OURS)]


def links() -> list[str]:
    """Return the bridge of the cluster and the virtual Ethernet links of pods."""
    lines = output("ip", "-brief", "link").splitlines()
    return [line for line in lines if line.startswith((BRIDGE, "veth"))]


def routes() -> list[str]:
    """Return the routes to pods."""
    return [line for line in output("ip", "route").splitlines() if line.startswith("10.244.")]


def firewall() -> list[str]:
    """Return the firewall tables, chains, rules and address sets of the cluster."""
    tables = output("nft", "list", "tables").splitlines()
    found = [line for line in tables if FIREWALL_TABLE in line or "kube-proxy" in line]
    for tool in ("iptables-save", "ip6tables-save"):
        rules = output(tool).splitlines()
        found += [line for line in rules if any(chain in line for chain in CHAINS)]
    return found + output("ipset", "list", "-name").split()


def leftovers() -> list[str]:
    """Return the remaining cgroups, sockets and folders."""
    candidates = [
        *Path("/sys/fs/cgroup").glob(f"*/{CGROUP}"),
        *Path("/sys/fs/cgroup").glob(CGROUP),
        *Path("/var/lib/cni/results").glob(f"{CNI_NETWORK}-*"),
        paths.RUN,
        paths.PIDS,
        paths.PKI,
    ]
    return [str(path) for path in candidates if path.exists()]


def all_of_them() -> dict[str, list[str]]:
    """Return the traces of each kind; empty if the machine has none."""
    kinds = (processes, mounts, links, routes, firewall, leftovers)
    found = {kind.__name__: kind() for kind in kinds}
    return {name: lines for name, lines in found.items() if lines}
