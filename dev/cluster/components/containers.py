"""containerd with its own configuration, state and socket, and the pod network (CNI).

It shares no socket, root or state with another containerd of the machine. Network namespaces are
below its state folder, so that they can be found and removed.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cluster import paths
from cluster.host import files, processes
from cluster.settings import CNI_NETWORK, POD_CIDR, REGISTRY, REGISTRY_ADDRESS
from cluster.shell import run

CNI_BINARIES = "/usr/lib/cni"
CNI_CONFIG = paths.ETC / "cni"
REGISTRY_HOSTS = paths.ETC / "registries"


def write_config(pause_image: str) -> Path:
    """Write the configuration of containerd and of the network; return the file of containerd."""
    # ptp, not bridge: without br_netfilter, traffic between pods on a bridge bypasses the firewall.
    # Masquerading is a rule in network.py.
    network = {
        "cniVersion": "0.4.0",
        "name": CNI_NETWORK,
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": POD_CIDR}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": str(paths.RUN / "cni"),
                },
            }
        ],
    }
    files.write(CNI_CONFIG / "10-finetune.conflist", json.dumps(network, indent=2))
    files.write(
        REGISTRY_HOSTS / REGISTRY / "hosts.toml",
        f'server = "http://{REGISTRY_ADDRESS}"\n\n'
        f'[host."http://{REGISTRY_ADDRESS}"]\n  capabilities = ["pull", "resolve"]\n',
    )
    return files.write(paths.ETC / "containerd.toml", _containerd(pause_image))


def _containerd(pause_image: str) -> str:
    quote = json.dumps
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    # restrict_oom_score_adj: root without CAP_SYS_RESOURCE, as in some containers and virtual
    # machines, cannot lower the score, and runc then fails without a clear message.
    return f"""version = 2
root = {quote(str(paths.CONTAINERD_ROOT))}
state = {quote(str(paths.CONTAINERD_STATE))}
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs"]

[grpc]
  address = {quote(str(paths.CONTAINERD_SOCKET))}

[{cri}]
  sandbox_image = {quote(pause_image)}
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  disable_apparmor = true

[{cri}.containerd]
  snapshotter = "overlayfs"
  discard_unpacked_layers = true
  default_runtime_name = "runc"

[{cri}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[{cri}.containerd.runtimes.runc.options]
  SystemdCgroup = false

[{cri}.cni]
  bin_dir = {quote(CNI_BINARIES)}
  conf_dir = {quote(str(CNI_CONFIG))}

[{cri}.registry]
  config_path = {quote(str(REGISTRY_HOSTS))}
"""


def start(pause_image: str) -> None:
    """Start containerd if it is not running; return when it answers."""
    write_config(pause_image)
    start_as_configured()


def start_as_configured() -> None:
    """Start containerd with its present configuration; return when it answers."""
    config = paths.ETC / "containerd.toml"
    paths.RUN.mkdir(parents=True, exist_ok=True)
    processes.start("containerd", ["containerd", "--config", str(config)], configuration=[config])
    processes.wait_until(
        "containerd",
        lambda: ctr("version", check=False).returncode == 0,
        state="answering on its socket",
    )


def remove_all() -> bool:
    """Remove all containers, but no images; report whether there were any.

    containerd must be running. Restart it afterwards, because its CRI plugin caches the removed
    containers.
    """
    names = ctr("containers", "list", "--quiet").stdout.split()
    for name in names:
        ctr("tasks", "delete", "--force", name, check=False)
        ctr("containers", "delete", name, check=False)
    return bool(names)


def images() -> dict[str, str]:
    """Return the names of the images in containerd, with their digests."""
    lines = ctr("images", "list").stdout.splitlines()[1:]
    return {fields[0]: fields[2] for fields in map(str.split, lines)}


def remove_images(names: Sequence[str]) -> None:
    """Remove images, and content that no other image uses."""
    if names:
        ctr("images", "remove", "--sync", *names, check=False)


def ctr(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run ctr, the client of containerd, in the namespace of the kubelet."""
    address = ["--address", str(paths.CONTAINERD_SOCKET), "--namespace", "k8s.io"]
    return run(["ctr", *address, *arguments], check=check, timeout=120)
