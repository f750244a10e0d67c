"""A job behind a corporate proxy, on the local cluster.

The hub is a mirror below a path, with a certificate of its own authority, on the loopback interface
of the machine: no pod can reach it. Tinyproxy, Debian's package, connects to it. Only Tinyproxy can
resolve the host name of the mirror. The namespace of the job denies all traffic.
"""

import json
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.support.api_server.controlplane import process, wait_until
from tests.support.local_cluster import locks, pods
from tests.support.local_cluster.fixtures import cluster, lane  # noqa: F401  (pytest finds fixtures by name)
from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.pods import Task
from tests.support.local_cluster.target import OPERATOR, OPERATOR_NAMESPACE, Cluster, namespaces
from tests.support.local_cluster.tuning import Tuning, small
from tests.support.ports import free_port
from tests.support.trainer import hub as hubs
from tests.support.trainer import web

from cluster import install, kubectl, paths
from cluster.settings import API_SERVER, NODE_ADDRESS
from cluster.shell import run

LOCKS = {locks.OPERATOR: "alone"}
NAMESPACE, HOST, PATH = "e2e-behind-proxy", "mirror.corp.test", "/api/mirror"
DENY: Object = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "default-deny", "namespace": NAMESPACE},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
}
PREPARED_SECONDS = 600.0
CONNECT = re.compile(r"CONNECT (\S+) HTTP/1")
# Tinyproxy resolves names with the file of the machine, which the mount namespace replaces.
WITH_HOSTS = 'mount --bind "$0" /etc/hosts && exec "$@"'

pytestmark = pytest.mark.timeout(1800)


@dataclass(frozen=True, kw_only=True)
class Corporate:
    """The network: the proxy's address and log, the mirror's port and authority."""

    proxy: str
    log: Path
    mirror_port: int
    authority: Path

    def requests(self) -> set[str]:
        """Return the hosts and ports for which clients have asked the proxy."""
        return set(CONNECT.findall(self.log.read_text()))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corporate]:
    """Mirror and proxy."""
    folder = tmp_path_factory.mktemp("network")
    certificate = web.certificate(folder)
    with hubs.serving(certificate.context()) as mirror:
        mirror.path = PATH
        for kind, name in (("model", "demo/two-layers"), ("dataset", "demo/debian-packages")):
            mirror.add(kind, name, paths.HUB_CONTENT / f"{kind}s" / name)
        port = urlsplit(mirror.url).port
        assert port is not None
        with _tinyproxy(folder, port) as address:
            yield Corporate(
                proxy=address,
                log=folder / "tinyproxy.log",
                mirror_port=port,
                authority=certificate.authority,
            )


@contextmanager
def _tinyproxy(folder: Path, mirror_port: int) -> Iterator[str]:
    """Run the proxy on the address of the node; yield its host and port."""
    program = shutil.which("tinyproxy")
    assert program is not None, "install Debian's package tinyproxy-bin"
    port = free_port()
    settings = (
        f"Port {port}",
        f"Listen {NODE_ADDRESS}",
        f"ConnectPort {mirror_port}",
        "LogLevel Connect",
        "Timeout 600",
    )
    (folder / "tinyproxy.conf").write_text("\n".join(settings) + "\n")
    (folder / "hosts").write_text(f"127.0.0.1 {HOST}\n")
    command: list[str | Path] = ["unshare", "--mount", "sh", "-c", WITH_HOSTS, folder / "hosts"]
    command += [program, "-d", "-c", folder / "tinyproxy.conf"]
    with process(command, folder / "tinyproxy.log") as running:

        def listens() -> bool:
            assert running.poll() is None, (folder / "tinyproxy.log").read_text()
            try:
                with socket.create_connection((NODE_ADDRESS, port), timeout=5):
                    return True
            except OSError:
                return False

        wait_until("tinyproxy listens", listens)
        yield f"{NODE_ADDRESS}:{port}"


@pytest.fixture(scope="module")
def behind_proxy(cluster: Cluster, network: Corporate) -> Iterator[Cluster]:  # noqa: F811
    """The operator with the chart values of such a network; the usual ones afterwards."""
    client = kubectl.local()
    release = (OPERATOR, "--namespace", OPERATOR_NAMESPACE, "--wait", "--timeout=5m")
    values = {
        "hub": {"endpoint": f"https://{HOST}:{network.mirror_port}{PATH}"},
        "proxy": {"url": f"http://{network.proxy}"},
        "caCertificates": network.authority.read_text(),
        "egress": {"namespaces": []},
    }
    options = ("--reuse-values", "--values=-")
    upgrade = client.helm("upgrade", *release, *options, str(install.CHART))
    run(upgrade, stdin=json.dumps(values))
    try:
        cluster.wait_for_operator(seconds=120)
        yield cluster
    finally:
        run(client.helm("rollback", *release))


def test_prepare_downloads_through_the_proxy_only(
    behind_proxy: Cluster, network: Corporate
) -> None:
    """The stage completes, and the proxy is the only destination that its NetworkPolicy allows."""
    with namespaces(behind_proxy, NAMESPACE):
        behind_proxy.kubectl.apply(DENY)
        job = Tuning(cluster=behind_proxy, namespace=NAMESPACE, name="small").apply(small())
        began = time.monotonic()
        job.wait("the prepare stage is complete", _prepared, seconds=PREPARED_SECONDS)
        print(f"    prepared through the proxy after {time.monotonic() - began:.0f} s")
        assert network.requests() == {f"{HOST}:{network.mirror_port}"}
        assert _destinations(behind_proxy) == {network.proxy}
        # The network plugin enforces it: a pod that no policy allows anything reaches nothing. It
        # programs the rules of a pod soon after the pod has started.
        stay = Task(script="stay.py", image=behind_proxy.operator_image())
        addresses = (network.proxy, API_SERVER.removeprefix("https://"))
        with pods.started(behind_proxy, NAMESPACE, stay) as name:
            pods.wait_until_ready(behind_proxy, NAMESPACE, name)
            wait_until(
                "an ordinary pod reaches neither the proxy nor the API server",
                lambda: (
                    "connected"
                    not in pods.inside(
                        behind_proxy, NAMESPACE, name, "reach.py", *addresses
                    ).values()
                ),
                60,
            )


def _prepared(status: Object) -> bool:
    return any(
        each["stage"] == "prepare" and each["outcome"] == "Completed"
        for revision in status.get("revisions", ())
        for each in revision["stages"]
    )


def _destinations(cluster: Cluster) -> set[str]:  # noqa: F811
    """Return the addresses and ports, besides DNS, to which the prepare pod can connect.

    Raises KeyError for pods as destinations.
    """
    policy = cluster.kubectl.get("networkpolicy", "small-prepare", NAMESPACE)
    return {
        f"{peer['ipBlock']['cidr'].removesuffix('/32')}:{port['port']}"
        for rule in policy["spec"]["egress"]
        if not any(port["port"] == 53 for port in rule["ports"])
        for peer in rule["to"]
        for port in rule["ports"]
    }
