"""The cluster that the tests run on, and the namespaces that they work in."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from tests.e2e.kubectl import Kubectl, Object
from tests.e2e.recorder import Recorder

REPOSITORY = Path(__file__).parents[2]
OPERATOR_NAMESPACE = "finetune-system"
OPERATOR = "finetune-operator"
GPU = "nvidia.com/gpu"
OURS = "finetune.dev/end-to-end-test"
"""Label of the tests' own namespaces."""
RUN = os.environ.get("FINETUNE_E2E_RUN") or uuid.uuid4().hex[:12]
"""Value of that label: lanes of one run have the same."""
LABELS = {"pod-security.kubernetes.io/enforce": "restricted", OURS: RUN}
GONE_SECONDS = 180.0
"""Longest that a namespace takes to be empty: a train pod may use its whole grace period."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A running cluster with the operator installed, and the record of all that happens in it."""

    kubectl: Kubectl
    record: Recorder

    def operator_image(self) -> str:
        """Return the operator's image; it has a Python and nothing that trains."""
        deployment = self.kubectl.get("deployment", OPERATOR, OPERATOR_NAMESPACE)
        return str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])

    def trainer_image(self) -> str:
        """Return the trainer's image, as the operator's configuration has it."""
        found = self.kubectl.get("configmap", OPERATOR, OPERATOR_NAMESPACE)
        return str(yaml.safe_load(found["data"]["config.yaml"])["images"]["trainer"])

    def operator_pod(self) -> Object | None:
        """Return the pod of the replica that leads, if it is ready."""
        lease = self.record.find("Lease", OPERATOR_NAMESPACE, OPERATOR)
        leader = lease["spec"].get("holderIdentity") if lease is not None else None
        pod = self.record.find("Pod", OPERATOR_NAMESPACE, leader) if leader else None
        return pod if pod is not None and is_ready(pod) else None

    def wait_for_operator(self, *, other_than: str = "", seconds: float = 60) -> Object:
        """Return the leader's pod once it is ready. ``other_than`` is the uid of a dead one."""

        def look() -> Object | None:
            pod = self.operator_pod()
            return pod if pod is not None and pod["metadata"]["uid"] != other_than else None

        return self.record.wait("the operator is ready", look, seconds=seconds)

    def hub_file(self, kind: str, repository: str, name: str) -> str:
        """Return a text file as the hub serves it. ``kind`` is models or datasets."""
        prefix = "" if kind == "models" else f"{kind}/"
        service = "/api/v1/namespaces/hub/services/http:hub:80/proxy"
        return self.kubectl.raw(f"{service}/{prefix}{repository}/resolve/main/{name}")

    def require_free_gpu(self) -> None:
        """Fail with the way out where somebody else's pod holds a GPU."""
        for pod in self.record.present("Pod"):
            if wants_gpu(pod) and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
                namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
                if namespace.startswith("e2e-"):
                    # Of another lane: what earlier runs left has been removed.
                    continue
                owner = pod["metadata"].get("labels", {}).get("finetune.dev/job", "")
                raise RuntimeError(
                    f"pod {namespace}/{name} holds the cluster's only GPU, which these tests need; "
                    f"way out: kubectl delete ftj {owner} -n {namespace}"
                )


def remove_leftovers(kubectl: Kubectl) -> None:
    """Remove the namespaces that tests which were killed have left, and wait until they are."""
    options = (f"--selector={OURS},{OURS}!={RUN}", f"--timeout={GONE_SECONDS:.0f}s")
    kubectl.run("delete", "namespaces", *options, seconds=GONE_SECONDS + 10)


@contextmanager
def namespaces(cluster: Cluster, *names: str) -> Iterator[None]:
    """Make namespaces that enforce the restricted Pod Security Standard; empty them at the end."""
    kubectl, record = cluster.kubectl, cluster.record
    options = ("--ignore-not-found", f"--timeout={GONE_SECONDS:.0f}s")
    kubectl.run("delete", "namespace", *names, *options, seconds=GONE_SECONDS + 10)
    kubectl.apply(
        *(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": n, "labels": LABELS}}
            for n in names
        )
    )
    try:
        yield
    finally:
        for name in names:
            kubectl.delete("namespace", name)
        record.wait(
            f"nothing runs in {', '.join(names)}",
            lambda: (
                not any(record.present("Pod", name) for name in names)
                and not any(record.present("PersistentVolumeClaim", name) for name in names)
            ),
            seconds=GONE_SECONDS,
        )


def dev_cluster(*arguments: str, seconds: float = 2700) -> str:
    """Run one of the local cluster's own commands; return what it wrote to standard output."""
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
    """Make sure that the cluster runs with the operator of this checkout; return its kubectl.

    ``make test`` and ``make e2e`` have seen to it before they start the lanes, and name the files.
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
    """Tell whether a pod is ready and not on its way out."""
    return "deletionTimestamp" not in pod["metadata"] and any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in pod.get("status", {}).get("conditions", ())
    )


def wants_gpu(pod: Object) -> bool:
    """Tell whether any container of a pod asks for a GPU."""
    spec = pod["spec"]
    return any(
        any(key.endswith("/gpu") for key in container.get("resources", {}).get(kind, {}))
        for container in (*spec.get("initContainers", ()), *spec["containers"])
        for kind in ("requests", "limits")
    )


def pretty(document: object) -> str:
    """Return a document as people read it."""
    return json.dumps(document, indent=2, ensure_ascii=False)
