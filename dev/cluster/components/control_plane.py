"""etcd, the API server, the controller manager and the scheduler as host processes."""

from __future__ import annotations

import functools
import ssl
import urllib.error
import urllib.request

from cluster import kubectl, paths
from cluster.artifacts import binaries
from cluster.components import pki
from cluster.host import processes
from cluster.settings import API_SERVER, CLUSTER_DOMAIN, NODE_ADDRESS, POD_CIDR, SERVICE_CIDR

ETCD_PORTS = (12379, 12380)
ETCD = f"https://127.0.0.1:{ETCD_PORTS[0]}"
ETCD_PEER = f"http://127.0.0.1:{ETCD_PORTS[1]}"
ISSUER = f"https://kubernetes.default.svc.{CLUSTER_DOMAIN}"
# The managers exit if they cannot read this ConfigMap.
AUTHENTICATION = ("configmap", "-n", "kube-system", "extension-apiserver-authentication")
# Ports of the health probes, on the loopback address.
MANAGERS = {"kube-controller-manager": 10257, "kube-scheduler": 10259}
KUBECONFIG_FLAGS = ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")


def start() -> None:
    """Start the processes that are not running; return when the API server is ready."""
    _start_etcd()
    _start_api_server()
    for name, port in MANAGERS.items():
        extra = _controller_manager_flags() if name == "kube-controller-manager" else []
        own = pki.kubeconfig(name)
        access = [f"--{flag}={own}" for flag in KUBECONFIG_FLAGS]
        bind = ["--bind-address=127.0.0.1", "--leader-elect=false"]
        processes.start(name, [binaries.program(name), *access, *bind, *extra], ports=[port])


def wait() -> None:
    """Wait for the managers, which the node does not need to start."""
    for name, port in MANAGERS.items():
        probe = functools.partial(answers, f"https://127.0.0.1:{port}/healthz")
        processes.wait_until(name, probe, state="healthy")


def _start_etcd() -> None:
    paths.ETCD_DATA.mkdir(parents=True, exist_ok=True, mode=0o700)
    processes.start(
        "etcd",
        [
            binaries.program("etcd"),
            f"--data-dir={paths.ETCD_DATA}",
            f"--listen-client-urls={ETCD}",
            f"--advertise-client-urls={ETCD}",
            f"--listen-peer-urls={ETCD_PEER}",
            f"--cert-file={pki.certificate('etcd')}",
            f"--key-file={pki.key('etcd')}",
            f"--trusted-ca-file={pki.certificate('etcd-ca')}",
            "--client-cert-auth",
            # Data lost in a power failure is recreated by `down` and `up`.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ],
        ports=ETCD_PORTS,
    )


def _start_api_server() -> None:
    processes.start(
        "kube-apiserver",
        [
            binaries.program("kube-apiserver"),
            f"--bind-address={NODE_ADDRESS}",
            f"--advertise-address={NODE_ADDRESS}",
            "--secure-port=6443",
            f"--etcd-servers={ETCD}",
            f"--etcd-cafile={pki.certificate('etcd-ca')}",
            f"--etcd-certfile={pki.certificate('etcd-client')}",
            f"--etcd-keyfile={pki.key('etcd-client')}",
            f"--client-ca-file={pki.certificate('ca')}",
            f"--tls-cert-file={pki.certificate('apiserver')}",
            f"--tls-private-key-file={pki.key('apiserver')}",
            f"--kubelet-certificate-authority={pki.certificate('ca')}",
            f"--kubelet-client-certificate={pki.certificate('apiserver-kubelet')}",
            f"--kubelet-client-key={pki.key('apiserver-kubelet')}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={pki.key('service-account')}",
            f"--service-account-signing-key-file={pki.key('service-account')}",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
        ],
    )
    url = f"{API_SERVER}/readyz"
    processes.wait_until("kube-apiserver", lambda: answers(url), state="ready")
    processes.wait_until(
        "kube-apiserver",
        lambda: kubectl.local().kubectl("get", *AUTHENTICATION, check=False).returncode == 0,
        state="serving its authentication settings",
    )


def _controller_manager_flags() -> list[str]:
    return [
        f"--cluster-cidr={POD_CIDR}",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        f"--root-ca-file={pki.certificate('ca')}",
        f"--service-account-private-key-file={pki.key('service-account')}",
        f"--cluster-signing-cert-file={pki.certificate('ca')}",
        f"--cluster-signing-key-file={pki.key('ca')}",
        "--use-service-account-credentials=true",
        # The CNI configuration fixes the pod CIDR of the only node.
        "--allocate-node-cidrs=false",
    ]


def answers(url: str) -> bool:
    """Report whether a GET returns 200. As a health probe, it does not verify certificates."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    handler = urllib.request.HTTPSHandler(context=context)
    # A proxy of the environment cannot reach these addresses.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), handler)
    try:
        with opener.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
