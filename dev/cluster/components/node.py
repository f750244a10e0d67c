"""The node: kubelet, kube-proxy and the NetworkPolicy firewall as host processes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from cluster import kubectl, paths
from cluster.artifacts import binaries
from cluster.components import pki
from cluster.components.control_plane import answers
from cluster.errors import NotReady
from cluster.host import cgroups, files, processes
from cluster.settings import (
    CGROUP,
    CLUSTER_DOMAIN,
    DNS_SERVICE,
    GPU_COUNT,
    GPU_PRODUCT,
    NODE_ADDRESS,
    NODE_NAME,
    POD_CIDR,
    SERVICE_CIDR,
)

FIREWALL_PORT = 20244
KUBELET_HEALTH_PORT = 10248
KUBELET_STARTS = 10


def start() -> None:
    """Start the missing processes; return when the node is Ready and offers its GPU."""
    cgroups.make()
    _start_healthy_kubelet()
    processes.wait_until("kubelet", _node_ready, state="reporting a Ready node", timeout=90)
    _start_kube_proxy()
    advertise_gpus()
    _start_firewall()


def _write(name: str, content: dict[str, Any]) -> Path:
    return files.write(paths.ETC / name, json.dumps(content, indent=2))


def _start_healthy_kubelet() -> None:
    """Start the kubelet until it is healthy.

    It exits if containerd was restarted and does not yet serve the CRI. The node of an earlier
    kubelet still counts as Ready then.
    """
    url = f"http://{NODE_ADDRESS}:{KUBELET_HEALTH_PORT}/healthz"
    for remaining in reversed(range(KUBELET_STARTS)):
        _start_kubelet()
        try:
            processes.wait_until("kubelet", lambda: answers(url), state="healthy", timeout=60)
            return
        except NotReady:
            if remaining == 0 or processes.alive("kubelet") is not None:
                raise
            time.sleep(1)


def _start_kubelet() -> None:
    config = _write(
        "kubelet.json",
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": NODE_ADDRESS,
            "healthzBindAddress": NODE_ADDRESS,
            "healthzPort": KUBELET_HEALTH_PORT,
            "readOnlyPort": 0,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": pki.certificate("ca")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": pki.certificate("kubelet-server"),
            "tlsPrivateKeyFile": pki.key("kubelet-server"),
            "containerRuntimeEndpoint": f"unix://{paths.CONTAINERD_SOCKET}",
            "clusterDNS": [DNS_SERVICE],
            "clusterDomain": CLUSTER_DOMAIN,
            "resolvConf": _resolv_conf(),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{CGROUP}",
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "enforceNodeAllocatable": [],
            # The machine has other uses: a full disk must not evict pods, and images are not
            # garbage-collected, because pulling them again takes minutes.
            "evictionHard": {
                "memory.available": "0%",
                "nodefs.available": "0%",
                "imagefs.available": "0%",
            },
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "serializeImagePulls": False,
            "makeIPTablesUtilChains": False,
            "podLogsDir": str(paths.STATE / "pod-logs"),
            "volumePluginDir": str(paths.STATE / "volume-plugins"),
        },
    )
    processes.start(
        "kubelet",
        [
            binaries.program("kubelet"),
            f"--config={config}",
            f"--kubeconfig={pki.kubeconfig('kubelet')}",
            f"--root-dir={paths.KUBELET_ROOT}",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={NODE_ADDRESS}",
        ],
        configuration=[config],
    )


def _resolv_conf() -> str:
    """Return the file with the resolvers of the host.

    The stub resolver of systemd-resolved listens on loopback, which is another one in a pod.
    """
    real = Path("/run/systemd/resolve/resolv.conf")
    return str(real if real.exists() else Path("/etc/resolv.conf"))


def _start_kube_proxy() -> None:
    config = _write(
        "kube-proxy.json",
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": {"kubeconfig": pki.kubeconfig("kube-proxy")},
            "clusterCIDR": POD_CIDR,
            "hostnameOverride": NODE_NAME,
            "bindAddress": NODE_ADDRESS,
            "healthzBindAddress": f"{NODE_ADDRESS}:10256",
            "metricsBindAddress": f"{NODE_ADDRESS}:10249",
            "conntrack": {"maxPerCore": 0},
            "oomScoreAdj": 0,
        },
    )
    command = [binaries.program("kube-proxy"), f"--config={config}"]
    processes.start("kube-proxy", command, configuration=[config])
    url = f"http://{NODE_ADDRESS}:10256/healthz"
    processes.wait_until("kube-proxy", lambda: answers(url), state="healthy")


def _start_firewall() -> None:
    processes.start(
        "kube-router",
        [
            binaries.program("kube-router"),
            f"--kubeconfig={pki.kubeconfig('kube-router')}",
            "--run-firewall=true",
            "--run-router=false",
            "--run-service-proxy=false",
            "--run-loadbalancer=false",
            f"--hostname-override={NODE_NAME}",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            "--enable-ipv6=false",
            f"--health-port={FIREWALL_PORT}",
            "--metrics-port=0",
        ],
        ports=[FIREWALL_PORT],
    )
    url = f"http://127.0.0.1:{FIREWALL_PORT}/healthz"
    processes.wait_until("kube-router", lambda: answers(url), state="healthy")


def _node() -> dict[str, Any]:
    done = kubectl.local().kubectl("get", "node", NODE_NAME, "-o", "json", check=False)
    parsed: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    return parsed


def _node_ready() -> bool:
    conditions = _node().get("status", {}).get("conditions", [])
    return any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions
    )


def advertise_gpus(count: int = GPU_COUNT) -> None:
    """Advertise GPUs like a device plugin. A restarted kubelet resets them, so do it every time."""
    amounts = {"nvidia.com/gpu": str(count)}
    patch = json.dumps({"status": {"capacity": amounts, "allocatable": amounts}})
    target = ["node", NODE_NAME]
    kubectl.local().kubectl("patch", *target, "--subresource=status", "--type=merge", "-p", patch)
    kubectl.local().kubectl(
        "label", *target, "--overwrite", f"nvidia.com/gpu.product={GPU_PRODUCT}"
    )
