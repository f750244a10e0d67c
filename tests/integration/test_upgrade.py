"""An upgrade of the operator with other images, other defaults, and a new field in the CRD.

At the upgrade, some jobs serve and other jobs are in every stage. The upgrade must not change any
object of a finished job. An unfinished job continues with the settings of its revision.
"""

import copy
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.fakes import kubelet
from tests.support.api_server.controlplane import CRD, ControlPlane, install_crd
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.operatorprocess import CONFIG, operator
from tests.support.api_server.scenarios import ScenarioRunner

pytestmark = pytest.mark.usefixtures("controller_manager")

# The test compares the objects of each job on their own, so more jobs prove nothing more. They only
# add load, and bench/simulated/scale.py measures the operator under load.
FINISHED = 5
# The reason of each unfinished job's Ready condition at the upgrade.
UNDER_WAY = {
    "preparing": "Preparing",
    "training": "Training",
    "merging": "Merging",
    "starting": "Starting",
    "edited": "Training",
    "suspended": "SuspendedByUser",
    "failed": "DatasetInvalid",
    "off": "Completed",
}
HELD = {"preparing": "prepare", "training": "train", "merging": "merge", "starting": "serve"}
NEWER: Mapping[str, Any] = {
    "images": {
        "trainer": "registry.test/trainer:2",
        "serving": "registry.test/serving:2",
        "operator": "registry.test/operator:2",
    },
    "serving": {
        "command": ["vllm", "serve", "/model", "--new"],
        "args": ["--also-new"],
        "env": {"NEW": "1"},
        "dtype": "bfloat16",
        "shmSize": "4Gi",
    },
    "defaults": {
        "training": {"epochs": 7, "seed": 1, "lora": {"r": 8}},
        "storage": {"size": "120Gi", "storageClassName": "newer"},
        "resources": {"train": {"requests": {"cpu": "7"}}},
        "placement": {"nodeSelector": {"newer": "yes"}},
        "serving": {"gpuMemoryUtilization": 0.5},
        "merge": {"dtype": "bfloat16"},
    },
    "imagePullPolicy": "Always",
    "imagePullSecrets": ["newer"],
    "logLevel": "info",
}
# The upgraded operator also has other built-in defaults.
BUILT_IN = """
from finetune_api import defaulting
older = defaulting.builtin_defaults
def newer():
    values = older()
    values["training"]["learningRate"] = 9e-5
    values["training"]["advanced"]["warmupRatio"] = 0.1
    values["serving"] |= {"maxModelLen": 1234}
    return values
defaulting.builtin_defaults = newer
"""


class Cluster:
    """The jobs of one namespace, and snapshots of their objects."""

    def __init__(self, place: Namespace) -> None:
        self.place = place
        self.runner = ScenarioRunner(plane=place.plane, pod_status=self.pod_status)
        self.holding = True
        self.first_of_edited = ""

    def pod_status(self, pod: dict[str, Any]) -> dict[str, Any] | None:
        labels = pod["metadata"]["labels"]
        name, stage = labels["finetune.dev/job"], kubelet.stage_of(pod)
        if name == "failed":
            return kubelet.failed(stage, code=65, reason="DatasetInvalid", message="row 7")
        edited = name == "edited" and labels["finetune.dev/revision"] != self.first_of_edited
        held = HELD.get(name) == stage or (
            edited and bool(self.first_of_edited) and stage == "train"
        )
        if held and self.holding:
            # The pod runs until it is released.
            return kubelet.running() if stage != "serve" else None
        return kubelet.serving() if stage == "serve" else kubelet.completed(stage)

    def reasons(self) -> dict[str, str]:
        names = [name for _, name in self.runner.jobs]
        return {name: self.runner.reason(self.place.name, name) for name in names}

    def until(self, reasons: Mapping[str, str]) -> None:
        self.runner.until(
            f"{len(reasons)} jobs are as expected",
            lambda: reasons.items() <= self.reasons().items(),
        )

    def has_pods(self, stages: Mapping[str, str]) -> bool:
        """Report whether each job has a pod of the stage, "edited" one of its second revision."""
        found = {
            (labels["finetune.dev/job"], labels["finetune.dev/stage"])
            for labels in (pod["metadata"]["labels"] for pod in self.runner.pods)
            if labels["finetune.dev/job"] != "edited"
            or labels["finetune.dev/revision"] != self.first_of_edited
        }
        return stages.items() <= found

    def complete_held_pods(self) -> None:
        """Complete the pods that were held in the state Running."""
        self.holding = False
        for pod in self.place.items("pods"):
            if pod["status"].get("phase") == "Running" and kubelet.stage_of(pod) != "serve":
                kubelet.report(self.place, pod, kubelet.completed(kubelet.stage_of(pod)))

    def snapshot(self) -> dict[str, Any]:
        """Return the objects of the jobs by uid, and the target revisions."""
        kinds = {kind: self.place.items(kind) for kind in ("jobs", "pods", "deployments")}
        return {
            "jobs": {each["metadata"]["uid"] for each in kinds["jobs"]},
            "pods": {
                each["metadata"]["uid"]: each["metadata"]["labels"]["finetune.dev/job"]
                for each in kinds["pods"]
            },
            "deployments": {
                each["metadata"]["uid"]: (each["metadata"]["generation"], json.dumps(each["spec"]))
                for each in kinds["deployments"]
            },
            "configmaps": {
                each["metadata"]["uid"]
                for each in self.place.items("configmaps")
                if "finetune.dev/job" in each["metadata"].get("labels", {})
            },
            "revisions": {
                name: (job["status"]["revision"], job["status"]["build"])
                for (_, name), job in self.runner.jobs.items()
                # A job that has not started has no revision yet; it starts with the new defaults.
                if job["status"].get("revisions")
            },
        }


@pytest.fixture
def upgraded_crd(control_plane: ControlPlane) -> Iterator[Any]:
    """Return a function that installs a CRD with a new field; restore the CRD after the test."""

    def install() -> None:
        newer = copy.deepcopy(yaml.safe_load(CRD.read_text(encoding="utf-8")))
        spec = newer["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        spec["properties"]["training"]["properties"]["newField"] = {"type": "string"}
        control_plane.apply(
            f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{newer['metadata']['name']}",
            newer,
        )

    yield install
    install_crd(control_plane)


def test_an_upgrade_restarts_nothing(
    control_plane: ControlPlane,
    place: Namespace,
    tmp_path: Path,
    upgraded_crd: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster = Cluster(place)
    config = {**CONFIG, "logLevel": "info", "watchNamespaces": [place.name]}
    finished = {f"done-{number}": "Serving" for number in range(FINISHED)}
    began = time.monotonic()
    with operator(control_plane, tmp_path, config) as older:
        for name in (*finished, *UNDER_WAY):
            off = {"serving": {"enabled": False}} if name == "off" else {}
            place.submit(name, suspend=name == "suspended", spec=off)
        cluster.until({**finished, "edited": "Serving"})
        edited = place.job("edited")
        cluster.first_of_edited = edited["status"]["revision"]
        place.plane.merge(
            place.path("finetunejobs", "edited"), {"spec": {"training": {"epochs": 2}}}
        )
        cluster.until({**finished, **UNDER_WAY})
        # The status has an attempt before its Job and its pod exist.
        stages = {**HELD, "edited": "train"}
        cluster.runner.until("the stages have pods", lambda: cluster.has_pods(stages))
        older.settled()
    elapsed = time.monotonic() - began
    cluster.runner.round()
    before = cluster.snapshot()

    upgraded_crd()
    newer = {**NEWER, "watchNamespaces": [place.name]}
    began = time.monotonic()
    with operator(control_plane, tmp_path, newer, prelude=BUILT_IN) as upgraded:
        jobs = FINISHED + len(UNDER_WAY)
        cluster.runner.until(
            "every job is reconciled",
            lambda: upgraded.metric("finetune_jobs") == jobs,
        )
        upgraded.settled()
        cluster.runner.round()
        after, reconciled = cluster.snapshot(), time.monotonic() - began
        assert {**finished, **UNDER_WAY}.items() <= cluster.reasons().items()
        for kind, objects in before.items():
            assert after[kind] == objects, kind
        assert upgraded.failures() == []

        cluster.complete_held_pods()
        place.plane.merge(place.path("finetunejobs", "suspended"), {"spec": {"suspend": False}})
        place.submit("new")
        ends = dict.fromkeys(UNDER_WAY, "Serving") | {
            "failed": "DatasetInvalid",
            "off": "Completed",
        }
        cluster.until({**finished, **ends, "new": "Serving"})
        last = cluster.snapshot()
    with capsys.disabled():
        sys.stdout.write(
            f"\n    {len(finished)} jobs serve and {len(UNDER_WAY)} are under way after "
            f"{elapsed:.0f} s; all reconciled {reconciled:.1f} s after the upgrade, no restart\n"
        )
    # The second revision of the job "edited" has replaced the first one.
    stay = {uid for uid, name in before["pods"].items() if name != "edited"}
    assert stay <= last["pods"].keys()
    assert before["revisions"].items() <= last["revisions"].items()
    images = _images(place)
    assert images.pop("new") == {"trainer:2", "serving:2", "operator:2"}
    assert images.pop("suspended") == {"trainer:2", "serving:2", "operator:2"}
    assert {"trainer:1"} == images.pop("off") == images.pop("failed")
    assert set(map(frozenset, images.values())) == {
        frozenset({"trainer:1", "serving:1", "operator:1"})
    }


def _images(place: Namespace) -> dict[str, set[str]]:
    """Return the images of every job's pods."""
    found: dict[str, set[str]] = {}
    for pod in place.items("pods"):
        images = found.setdefault(pod["metadata"]["labels"]["finetune.dev/job"], set())
        images |= {each["image"].rsplit("/", 1)[1] for each in pod["spec"]["containers"]}
    return found
