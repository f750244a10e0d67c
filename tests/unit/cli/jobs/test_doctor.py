"""``ftj doctor``: each requirement of a job, met or not, with its remedy."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from tests.unit.cli.jobs.conftest import Objects, Run

from clidocs.example_objects import CORE, PROFILES
from cluster import paths
from finetune_api.policy.readable_settings import FILE, NAME, NAMESPACE
from finetune_cli.cluster.health import checks, gpu_nodes
from finetune_operator.manifests.gpu import node_labels
from finetune_trainer.devices import capabilities

Change = Callable[[Objects], Any]
DEPLOYMENTS, NODES = "/apis/apps/v1/deployments", "/api/v1/nodes"
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"


def test_a_cluster_with_everything_passes(run: Run) -> None:
    code, text, err = run("doctor", columns=None)
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "ok Kubernetes v1.34.2" in lines
    assert "ok operator finetune-system/finetune-operator, version 0.1.0, 2 ready" in lines
    assert "ok GPUs gpu-1: 1 x NVIDIA-A10G, driver 580.95.05" in lines
    assert "ok Kueue not installed: jobs start at once" in lines
    assert "ok your rights all that ftj uses in namespace team-a" in lines
    assert lines[-1].startswith("No requirement failed, with 1 warning (context demo")
    found = json.loads(run("doctor", "-o", "json")[1])
    assert found["healthy"] is True
    assert {each["about"] for each in found["findings"]} >= {"Kubernetes", "GPUs", "StorageClass"}


def without(path: str) -> Change:
    return lambda objects: objects.__setitem__(path, [])


def changed(path: str, change: Callable[[dict[str, Any]], Any]) -> Change:
    return lambda objects: change(objects[path][0])


def allocatable(**amounts: str) -> Change:
    return changed(NODES, lambda it: it["status"].update(allocatable=amounts))


def not_valid(object_: dict[str, Any]) -> None:
    """The operator reports that an object is not valid."""
    condition = {"type": "Valid", "status": "False", "reason": "Invalid", "message": "Correct it."}
    object_["status"] = {"conditions": [condition]}


def requested(resource: str) -> Change:
    """The operator publishes that it requests a resource."""
    text = yaml.safe_dump({"gpuResource": resource})
    made = {"metadata": {"name": NAME}, "data": {FILE: text}}
    path = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
    return lambda objects: objects.__setitem__(path, [made])


def renamed(resource: str) -> Change:
    """The device plugin and the operator use a name of their own."""

    def change(objects: Objects) -> None:
        allocatable(**{resource: "2"})(objects)
        requested(resource)(objects)

    return change


def quota(used: str, key: str = "requests.nvidia.com/gpu") -> Change:
    status = {part: {key: amount} for part, amount in (("hard", "2"), ("used", used))}
    found = {"metadata": {"name": "gpus"}, "status": status}
    return lambda objects: objects.__setitem__(f"{CORE}/resourcequotas", [found])


def driver(version: str) -> Change:
    label = {"nvidia.com/cuda.driver-version.full": version}
    return changed(NODES, lambda it: it["metadata"]["labels"].update(label))


def kueue(*queues: str) -> Change:
    def change(objects: Objects) -> None:
        version = {"groupVersion": "kueue.x-k8s.io/v1beta2"}
        group = {"metadata": {"name": "kueue.x-k8s.io"}, "preferredVersion": version}
        objects["/apis"] = [group]
        found = [{"metadata": {"name": each}} for each in queues]
        objects["/apis/kueue.x-k8s.io/v1beta2/namespaces/team-a/localqueues"] = found

    return change


def two_profiles(objects: Objects) -> None:
    other = copy.deepcopy(objects[PROFILES][0])
    other["metadata"]["name"] = "large"
    objects[PROFILES].append(other)


@pytest.mark.parametrize(
    ("change", "state", "words"),
    [
        (changed("", lambda it: it.update(minor="30+")), "failed", "to Kubernetes 1.31 or newer"),
        (changed("", lambda it: it.update(minor="x")), "unknown", "v1.34.2"),
        (without("/apis/finetune.dev"), "failed", "Install the operator with its CRDs"),
        (
            changed("/apis/finetune.dev", lambda it: it["resources"].pop()),
            "failed",
            "without finetuneusages",
        ),
        (without(DEPLOYMENTS), "failed", "Install the operator with its chart"),
        (
            changed(DEPLOYMENTS, lambda it: it.update(status={})),
            "failed",
            "kubectl logs -n finetune-system deploy/finetune-operator",
        ),
        (
            changed(
                DEPLOYMENTS,
                lambda it: it["metadata"]["labels"].update({"app.kubernetes.io/version": "0.2.0"}),
            ),
            "warning",
            "Install ftj in version 0.2.0; this one is 0.1.0.",
        ),
        (without(NODES), "warning", "none of 0 nodes has a GPU"),
        (allocatable(**{"nvidia.com/gpu": "\x1b"}), "warning", "none of 1 nodes has a GPU"),
        (allocatable(**{"nvidia.com/hostdev": "8"}), "warning", "none of 1 nodes has a GPU"),
        (
            allocatable(**{"nvidia.com/gpu.shared": "4", "nvidia.com/hostdev": "8"}),
            "ok",
            "gpu-1: 4 x NVIDIA-A10G (nvidia.com/gpu.shared), driver",
        ),
        (
            allocatable(**{"nvidia.com/mig-1g.10gb": "7", "cpu": "4"}),
            "ok",
            "gpu-1: 7 x NVIDIA-A10G (nvidia.com/mig-1g.10gb), driver 580.95.05",
        ),
        (
            requested("nvidia.com/mig-1g.10gb"),
            "failed",
            "pods of jobs request nvidia.com/mig-1g.10gb, but the nodes have nvidia.com/gpu",
        ),
        (renamed("example.com/a10"), "ok", "gpu-1: 2 x NVIDIA-A10G (example.com/a10), driver"),
        (requested("nvidia.com/gpu"), "ok", "gpu-1: 1 x NVIDIA-A10G, driver 580.95.05"),
        (
            changed(NODES, lambda it: it["metadata"].pop("labels")),
            "warning",
            "Install GPU Feature Discovery",
        ),
        (
            changed(NODES, lambda it: it.update(spec={"unschedulable": True})),
            "warning",
            "kubectl describe node gpu-1",
        ),
        (driver("570.86.15"), "failed", "Install driver R580 or newer"),
        (driver("x"), "ok", "driver x"),
        (without(CLASSES), "failed", "Install a driver for volumes"),
        (
            changed(CLASSES, lambda it: it["metadata"].pop("annotations")),
            "warning",
            "no default class (there are: standard)",
        ),
        (changed(CLASSES, lambda it: None), "warning", "its volumes cannot grow"),
        (
            changed(CLASSES, lambda it: it.update(allowVolumeExpansion=True)),
            "ok",
            "standard is the default",
        ),
        (two_profiles, "warning", "2 of kind FineTuneProfile, default: small, large"),
        (changed(PROFILES, not_valid), "warning", "FineTuneProfile small is not valid: Invalid"),
        (quota("2"), "warning", "2 of 2 GPUs used"),
        (quota("1"), "ok", "1 of 2 GPUs used"),
        (quota("2", "requests.nvidia.com/mig-1g.10gb"), "warning", "2 of 2 GPUs used"),
        (kueue("team"), "ok", "kueue.x-k8s.io/v1beta2, LocalQueues: team"),
        (kueue(), "ok", "Create a LocalQueue"),
    ],
)
def test_each_requirement_has_its_state_and_remedy(
    run: Run, objects: Objects, change: Change, state: str, words: str
) -> None:
    change(objects)
    code, text, err = run("doctor", "-o", "json")
    assert (code, err) == (1 if state == "failed" else 0, "")
    about = [each for each in json.loads(text)["findings"] if words in str(list(each.values()))]
    assert [each["state"] for each in about] == [state]
    assert run("doctor", columns=40)[0] == code
    assert run("doctor", columns=120)[0] == code


def test_a_cluster_that_creates_gpu_nodes_on_demand_passes_with_a_warning(
    run: Run, objects: Objects
) -> None:
    objects[NODES] = []
    code, text, _ = run("doctor", columns=None)
    assert code == 0
    assert "If a pool of GPU nodes scales from zero, the first job starts a node." in text
    assert text.splitlines()[-1].startswith("No requirement failed, with 2 warnings")


def test_the_oldest_version_is_that_of_the_chart() -> None:
    chart = yaml.safe_load((paths.REPO / "charts/finetune-operator/Chart.yaml").read_text())
    assert chart["kubeVersion"].startswith(f">={'.'.join(map(str, checks.OLDEST))}.")


def test_labels_and_driver_are_those_of_operator_and_trainer() -> None:
    assert {*gpu_nodes.PRODUCTS} == {node_labels.PRODUCT, *node_labels.CLOUD_NAMES}
    assert node_labels.DRIVER in gpu_nodes.DRIVERS
    assert f"R{gpu_nodes.OLDEST_DRIVER}" == capabilities.MIN_DRIVER


def test_rights_that_are_lacking_are_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_may", lambda cluster, *right: right[2] != "pods")
    code, text, _ = run("doctor", columns=None)
    assert code == 0
    for verb in ("get", "create"):
        assert f"you may not {verb} pods/portforward in namespace team-a, for chat" in text
    assert "finetunejobs in namespace" not in text
