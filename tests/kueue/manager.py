"""Run the manager of Kueue as a process next to a control plane, with its released manifests.

All manifests and settings are unchanged, except for the tasks of a Deployment and a kubelet: ports,
and the mounted certificate, which Kueue creates itself. The API server reaches the webhooks through
a Service with the address of this machine.
"""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from tests.support.api_server.controlplane import ControlPlane, answers, process, wait_until
from tests.support.api_server.namespace import Namespace
from tests.support.ports import free_ports

NAMESPACE = "kueue-system"
API = "/apis/kueue.x-k8s.io/v1beta2"
SECRET = f"/api/v1/namespaces/{NAMESPACE}/secrets/kueue-webhook-server-cert"
COLLECTIONS = {
    "Namespace": "/api/v1/namespaces",
    "Secret": f"/api/v1/namespaces/{NAMESPACE}/secrets",
    "Service": f"/api/v1/namespaces/{NAMESPACE}/services",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "MutatingWebhookConfiguration": (
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
    ),
    "ValidatingWebhookConfiguration": (
        "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    ),
}
"""The installed kinds; the other manifests are the Deployment and its permissions."""

PLURALS = {
    "ResourceFlavor": "resourceflavors",
    "ClusterQueue": "clusterqueues",
    "LocalQueue": "localqueues",
    "WorkloadPriorityClass": "workloadpriorityclasses",
    "AdmissionCheck": "admissionchecks",
}


@contextmanager
def running(plane: ControlPlane, folder: Path) -> Iterator[None]:
    """Install Kueue and run it until the end of the block. Raises RuntimeError, TimeoutError."""
    missing = [name for name in ("kueue", "kueue.yaml") if not (plane.assets / name).exists()]
    if missing:
        raise RuntimeError(
            f"KUBEBUILDER_ASSETS ({plane.assets}) holds no {' and no '.join(missing)}; "
            "say: export KUBEBUILDER_ASSETS=$(python3 dev/cluster assets)"
        )
    with (plane.assets / "kueue.yaml").open(encoding="utf-8") as file:
        manifests = list(yaml.load_all(file, Loader=yaml.CSafeLoader))
    health, webhooks = free_ports(2)
    certificates, settings, log = (
        folder / name for name in ("kueue-certificates", "kueue-settings.yaml", "kueue.log")
    )
    certificates.mkdir()
    (shipped,) = (each for each in manifests if each["kind"] == "ConfigMap")
    settings.write_text(
        yaml.safe_dump(
            yaml.safe_load(shipped["data"]["controller_manager_config.yaml"])
            | {
                "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
                "metrics": {"bindAddress": "0"},
                "webhook": {
                    "host": "127.0.0.1",
                    "port": webhooks,
                    "certDir": str(certificates),
                },
                "leaderElection": {"leaderElect": False},
                # The visibility API of Kueue, which the tests do not use.
                "featureGates": {"VisibilityOnDemand": False},
            }
        )
    )
    for each in manifests:
        if each["kind"] in COLLECTIONS:
            plane.post(COLLECTIONS[each["kind"]], _reached_at(each, webhooks))
    command: list[str | Path] = [plane.assets / "kueue", "--config", settings]
    with process(command, log, {"KUBECONFIG": str(plane.kubeconfig)}) as started:
        wait_until(
            f"Kueue has a certificate (log: {log})",
            lambda: _mounted(plane, certificates),
        )
        wait_until(
            f"Kueue is ready (log: {log})",
            lambda: answers(f"http://127.0.0.1:{health}/readyz", started),
        )
        yield


def _reached_at(manifest: Any, port: int) -> Any:
    """Return a manifest with the address of the webhooks replaced by a port of this machine."""
    if manifest["kind"] == "Service" and manifest["metadata"]["name"].endswith("webhook-service"):
        return manifest | {"spec": {"type": "ExternalName", "externalName": "127.0.0.1"}}
    conversion = manifest.get("spec", {}).get("conversion") or {}
    for webhook in (*manifest.get("webhooks", ()), conversion.get("webhook")):
        if webhook:
            webhook["clientConfig"]["service"]["port"] = port
    return manifest


def _mounted(plane: ControlPlane, folder: Path) -> bool:
    """Write the certificate to the folder where a kubelet would mount it."""
    data = plane.get(SECRET).get("data", {})
    for name, content in data.items():
        (folder / name).write_bytes(base64.b64decode(content))
    return bool(data)


def create(plane: ControlPlane, kind: str, name: str, namespace: str = "", **body: Any) -> None:
    """Create an object of an API of Kueue."""
    where = f"/namespaces/{namespace}" if namespace else ""
    plane.post(
        f"{API}{where}/{PLURALS[kind]}",
        {
            "apiVersion": "kueue.x-k8s.io/v1beta2",
            "kind": kind,
            "metadata": {"name": name} | ({"namespace": namespace} if namespace else {}),
            **body,
        },
    )


def workloads(place: Namespace) -> list[dict[str, Any]]:
    """Return the Workloads of the namespace."""
    found: list[dict[str, Any]]
    found = place.plane.get(f"{API}/namespaces/{place.name}/workloads")["items"]
    return found
