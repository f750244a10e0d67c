"""The cluster of the tests, and their namespaces."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from tests.support.local_cluster.kubectl import Kubectl, Object
from tests.support.local_cluster.recorder import Recorder

REPOSITORY = Path(__file__).parents[3]
OPERATOR_NAMESPACE = "finetune-system"
OPERATOR = "finetune-operator"
GPU = "nvidia.com/gpu"
OURS = "finetune.dev/end-to-end-test"
"""Label of the namespaces of the tests."""
RUN = os.environ.get("FINETUNE_E2E_RUN") or uuid.uuid4().hex[:12]
"""Value of the label; all lanes of one run have the same value."""
LABELS = {"pod-security.kubernetes.io/enforce": "restricted", OURS: RUN}
GONE_SECONDS = 300.0
"""Time limit for emptying a namespace; a train pod can use its whole grace period."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A running cluster with the operator, and the record of its changes."""

    kubectl: Kubectl
    record: Recorder

    def operator_image(self) -> str:
        """Return the image of the operator, which contains Python but no training library."""
        deployment = self.kubectl.get("deployment", OPERATOR, OPERATOR_NAMESPACE)
        return str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])

    def trainer_image(self) -> str:
        """Return the image of the trainer, from the configuration of the operator."""
        found = self.kubectl.get("configmap", OPERATOR, OPERATOR_NAMESPACE)
        return str(yaml.safe_load(found["data"]["config.yaml"])["images"]["trainer"])

    def operator_pod(self) -> Object | None:
        """Return the pod of the leader if it is ready."""
        lease = self.record.find("Lease", OPERATOR_NAMESPACE, OPERATOR)
        leader = lease["spec"].get("holderIdentity") if lease is not None else None
        pod = self.record.find("Pod", OPERATOR_NAMESPACE, leader) if leader else None
        return pod if pod is not None and is_ready(pod) else None

    def wait_for_operator(self, *, other_than: str = "", seconds: float = 300) -> Object:
        """Wait for a ready leader and return its pod. ``other_than``: uid of a killed pod."""

        def check() -> Object | None:
            pod = self.operator_pod()
            return pod if pod is not None and pod["metadata"]["uid"] != other_than else None

        return self.record.wait("the operator is ready", check, seconds=seconds)

    def hub_file(self, kind: str, repository: str, name: str) -> str:
        """Return a text file of the local hub. ``kind``: models or datasets."""
        prefix = "" if kind == "models" else f"{kind}/"
        service = "/api/v1/namespaces/hub/services/http:hub:80/proxy"
        return self.kubectl.raw(f"{service}/{prefix}{repository}/resolve/main/{name}")

    def require_free_gpu(self) -> None:
        """Fail with a remediation if a pod of another user has a GPU."""
        for pod in self.record.present("Pod"):
            if wants_gpu(pod) and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
                namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
                if namespace.startswith("e2e-"):
                    # The pod belongs to another lane of this run; leftovers of earlier runs were
                    # removed before.
                    continue
                owner = pod["metadata"].get("labels", {}).get("finetune.dev/job", "")
                raise RuntimeError(
                    f"pod {namespace}/{name} holds the cluster's only GPU, which these tests need; "
                    f"way out: kubectl delete ftj {owner} -n {namespace}"
                )


def remove_leftovers(kubectl: Kubectl) -> None:
    """Delete the namespaces that killed test runs have left, and wait for their deletion."""
    options = (f"--selector={OURS},{OURS}!={RUN}", f"--timeout={GONE_SECONDS:.0f}s")
    kubectl.run("delete", "namespaces", *options, seconds=GONE_SECONDS + 10)


@contextmanager
def namespaces(cluster: Cluster, *names: str) -> Iterator[None]:
    """Create namespaces with the restricted Pod Security Standard; empty them after the block."""
    create_namespaces(cluster.kubectl, *names)
    try:
        yield
    finally:
        empty_namespaces(cluster, *names)


def create_namespaces(kubectl: Kubectl, *names: str) -> None:
    """Create namespaces with the restricted Pod Security Standard, instead of existing ones."""
    options = ("--ignore-not-found", f"--timeout={GONE_SECONDS:.0f}s")
    kubectl.run("delete", "namespace", *names, *options, seconds=GONE_SECONDS + 10)
    kubectl.apply(
        *(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": n, "labels": LABELS}}
            for n in names
        )
    )
    for name in names:
        _wait_for_account(kubectl, name)


def empty_namespaces(cluster: Cluster, *names: str) -> None:
    """Delete namespaces, and wait until they contain no pod and no claim."""
    for name in names:
        cluster.kubectl.delete("namespace", name)
    cluster.record.wait(
        f"nothing runs in {', '.join(names)}",
        lambda: (
            not any(cluster.record.present("Pod", name) for name in names)
            and not any(cluster.record.present("PersistentVolumeClaim", name) for name in names)
        ),
        seconds=GONE_SECONDS,
    )


def _wait_for_account(kubectl: Kubectl, namespace: str) -> None:
    """Wait for the default ServiceAccount, without which no pod is admitted."""
    deadline = time.monotonic() + GONE_SECONDS
    account = ("get", "serviceaccount", "default", f"--namespace={namespace}")
    while (done := kubectl.attempt(*account)).returncode != 0:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{namespace} has no ServiceAccount: {done.stderr.strip()}")
        time.sleep(0.2)


def dev_cluster(*arguments: str, seconds: float = 2700) -> str:
    """Run a command of the local cluster (dev/cluster); return its standard output."""
    command = [sys.executable, str(REPOSITORY / "dev" / "cluster"), *arguments]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=seconds,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"dev/cluster {' '.join(arguments)} ended with {done.returncode}:\n"
            f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        )
    return done.stdout.strip()


def local_kubectl() -> Kubectl:
    """Ensure that the cluster runs the operator of this checkout; return its kubectl.

    ``make test`` and ``make e2e`` ensure this before they start the lanes, and set the variables.
    """
    if "FINETUNE_E2E_RUN" in os.environ:
        programs, kubeconfig = os.environ["KUBEBUILDER_ASSETS"], os.environ["KUBECONFIG"]
    else:
        for command in ("up", "images", "install"):
            dev_cluster(command)
        programs = dev_cluster("assets").splitlines()[-1]
        kubeconfig = dev_cluster("kubeconfig").splitlines()[-1]
    return Kubectl(program=Path(programs) / "kubectl", kubeconfig=Path(kubeconfig))


def is_ready(pod: Object) -> bool:
    """Report whether a pod is ready and not being deleted."""
    return "deletionTimestamp" not in pod["metadata"] and any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in pod.get("status", {}).get("conditions", ())
    )


def wants_gpu(pod: Object) -> bool:
    """Report whether a container of a pod requests a GPU."""
    spec = pod["spec"]
    return any(
        any(key.endswith("/gpu") for key in container.get("resources", {}).get(kind, {}))
        for container in (*spec.get("initContainers", ()), *spec["containers"])
        for kind in ("requests", "limits")
    )


def pretty(document: object) -> str:
    """Return a document as indented JSON."""
    return json.dumps(document, indent=2, ensure_ascii=False)
