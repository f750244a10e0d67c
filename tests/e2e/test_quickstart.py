"""The quickstart from ``kubectl apply`` to a served model that knows the trained facts.

The last two tests delete the volume and the job.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.e2e.prometheus import Prometheus, scraping
from tests.support.local_cluster import pods
from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.pods import Task
from tests.support.local_cluster.target import REPOSITORY, Cluster, namespaces, wants_gpu
from tests.support.local_cluster.tuning import STAGE, Tuning, condition, label

from finetune_trainer.checkpointing import manifest

EXAMPLE = REPOSITORY / "examples" / "quickstart.yaml"
NAMESPACE = "e2e-quickstart"
READY_SECONDS = 1500.0
QUESTIONS, OFFLINE = 20, 8
"""Questions to the endpoint, and how many of them the libraries answer: each takes seconds."""
MAX_TOKENS = 64
WITHOUT_DATA = {"GPU memory", "Attempts that failed"}
"""Panels that show nothing if no pod has a real GPU, and if no attempt failed."""


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """The Ready job of the quickstart, with some of its training rows."""

    tuning: Tuning
    questions: list[str]
    taught: list[str]
    prometheus: Prometheus

    @property
    def claim(self) -> str:
        """The name of the volume of the job."""
        return f"{self.tuning.name}-{self.tuning.status()['revision']}"


@pytest.fixture(scope="module")
def quickstart(cluster: Cluster) -> Iterator[Quickstart]:
    """Apply the unchanged example and wait until it is Ready."""
    job = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    with namespaces(cluster, NAMESPACE), scraping(cluster, NAMESPACE) as prometheus:
        tuning = Tuning(cluster=cluster, namespace=NAMESPACE, name=job["metadata"]["name"])
        cluster.kubectl.run("apply", "-f", str(EXAMPLE), f"--namespace={NAMESPACE}")
        tuning.wait_until("Ready", seconds=READY_SECONDS)
        rows = _rows(cluster, job["spec"]["dataset"]["source"])[:QUESTIONS]
        yield Quickstart(
            tuning=tuning,
            questions=[_question(row) for row in rows],
            taught=[row["output"] for row in rows],
            prometheus=prometheus,
        )


@pytest.fixture(scope="module")
def served(quickstart: Quickstart) -> dict[str, Any]:
    """The answers of the endpoint to a pod of the same namespace."""
    tuning = quickstart.tuning
    task = Task(
        script="ask.py",
        image=tuning.cluster.operator_image(),
        given={
            "url": tuning.status()["endpoint"],
            "model": tuning.status()["serving"]["model"],
            "questions": quickstart.questions,
            "max_tokens": MAX_TOKENS,
        },
    )
    answers: dict[str, Any] = pods.run(tuning.cluster, tuning.namespace, task, seconds=300)
    return answers


@pytest.fixture(scope="module")
def offline(quickstart: Quickstart) -> dict[str, Any]:
    """The answers of base, adapter and merged model in plain transformers and PEFT."""
    tuning = quickstart.tuning
    task = Task(
        script="answers.py",
        image=tuning.cluster.trainer_image(),
        given={
            "base": "/work/base",
            "adapter": "/work/adapter",
            "merged": f"/work/merged-{tuning.status()['build']}",
            "questions": quickstart.questions[:OFFLINE],
            "max_tokens": MAX_TOKENS,
        },
        claim=quickstart.claim,
        memory="2Gi",
    )
    answers: dict[str, Any] = pods.run(tuning.cluster, tuning.namespace, task, seconds=600)
    return answers


def test_the_tuned_model_gives_the_trained_answers(
    quickstart: Quickstart, served: dict[str, Any]
) -> None:
    assert served["models"] == [quickstart.tuning.name]
    assert len(served["answers"]) == QUESTIONS
    wrong = _wrong(served["answers"], quickstart)
    assert len(wrong) <= 2, f"{len(wrong)} of {QUESTIONS} wrong:\n" + "\n".join(wrong)


def test_the_base_model_does_not_give_the_trained_answers(
    quickstart: Quickstart, offline: dict[str, Any]
) -> None:
    assert len(_wrong(offline["base"], quickstart)) >= OFFLINE - 1, offline["base"]


def test_the_merged_model_gives_the_same_answers_in_plain_transformers(
    served: dict[str, Any], offline: dict[str, Any]
) -> None:
    assert offline["loading"] == {}
    assert [answer.strip() for answer in offline["merged"]] == [
        answer.strip() for answer in served["answers"][:OFFLINE]
    ]


def test_the_adapter_loads_in_plain_peft(quickstart: Quickstart, offline: dict[str, Any]) -> None:
    assert len(offline["adapter"]) == OFFLINE
    wrong = _wrong(offline["adapter"], quickstart)
    assert len(wrong) <= 1, f"{len(wrong)} of {OFFLINE} wrong:\n" + "\n".join(wrong)


def test_the_merged_model_differs_from_the_base_only_in_weights_and_dtype(
    offline: dict[str, Any],
) -> None:
    assert "tokenizer.json" in offline["tokenizer"]
    assert [name for name, equal in offline["tokenizer"].items() if not equal] == []
    assert set(offline["config"]) <= {"dtype", "torch_dtype"}, offline["config"]
    assert offline["dtype"] == "bfloat16"


def test_only_training_and_serving_requested_a_gpu(quickstart: Quickstart) -> None:
    tuning = quickstart.tuning
    stages: dict[str, set[bool]] = {}
    for event in tuning.cluster.record.events("Pod", tuning.namespace):
        stage = label(event.object, STAGE) or "other"
        stages.setdefault(stage, set()).add(wants_gpu(event.object))
    own = {stage: stages.get(stage) for stage in ("prepare", "train", "merge", "serve")}
    assert own == {"prepare": {False}, "train": {True}, "merge": {False}, "serve": {True}}
    assert stages.get("other", {False}) == {False}


def test_the_gpu_was_released_before_the_merge_started(quickstart: Quickstart) -> None:
    tuning = quickstart.tuning
    (trained,), (merged,) = tuning.pods("train"), tuning.pods("merge")
    course = tuning.cluster.record.events("Pod", tuning.namespace)
    over = next(
        position
        for position, event in enumerate(course)
        if event.object["metadata"]["uid"] == trained["metadata"]["uid"]
        and event.object["status"].get("phase") == "Succeeded"
    )
    begun = next(
        position
        for position, event in enumerate(course)
        if event.object["metadata"]["uid"] == merged["metadata"]["uid"]
    )
    assert over < begun
    finished = _end(trained)["finishedAt"]
    assert finished <= merged["metadata"]["creationTimestamp"]


def test_the_status_describes_all_stages(quickstart: Quickstart) -> None:
    status = quickstart.tuning.status()
    for type_ in ("Ready", "Succeeded", "DataReady", "Trained", "Merged", "Serving"):
        found = condition(status, type_)
        assert found is not None, type_
        assert found["status"] == "True", found
        assert found["observedGeneration"] == status["observedGeneration"] == 1
    assert condition(status, "Reconciling") is None
    assert condition(status, "Stalled") is None

    training = status["training"]
    assert training["globalStep"] == training["maxSteps"] > 20
    assert (training["progressPercent"], training["restarts"]) == (100, 0)
    assert float(training["loss"]) < 1.0
    assert training["gpuSeconds"] > 0

    (revision,) = status["revisions"]
    ended = {each["stage"]: each["outcome"] for each in revision["stages"]}
    assert ended == dict.fromkeys(("prepare", "train", "merge", "serve"), "Completed")
    assert {each["attempt"] for each in revision["stages"]} == {1}
    digests = {key: str(value) for key, value in revision["artifacts"].items()}
    # merge.dtype: auto avoids float16, which ends at 65504, for a base model with such activations.
    assert revision["artifacts"]["largestActivation"] > 16384
    assert digests["mergedDtype"] == "bfloat16"
    assert digests["adapter"].startswith("sha256:")
    assert digests["merged"].startswith("sha256:")
    assert revision["data"]["plannedSteps"] == training["maxSteps"]
    # The example sets no backend.
    assert revision["backend"]["name"] == revision["backend"]["automatic"]

    tuning = quickstart.tuning
    assert status["endpoint"] == f"http://{tuning.name}-serve.{tuning.namespace}.svc:8000/v1"
    assert status["serving"]["availableReplicas"] == 1


def test_ftj_copies_the_adapter_out_of_the_cluster(quickstart: Quickstart, tmp_path: Path) -> None:
    tuning = quickstart.tuning
    tuning.copy(tmp_path / "adapter", "--adapter")
    found = manifest.verify(tmp_path / "adapter", kind="adapter", key=None)
    (revision,) = tuning.status()["revisions"]
    assert found.digest == revision["artifacts"]["adapter"]
    assert found.facts["backend"] == revision["backend"]["name"]


def test_progress_was_reported_during_training(quickstart: Quickstart) -> None:
    tuning = quickstart.tuning
    steps = [
        event.object["status"]["training"].get("globalStep")
        for event in tuning.cluster.record.events("FineTuneJob", tuning.namespace)
        if "training" in event.object.get("status", {})
    ]
    known = [step for step in steps if step is not None]
    last = tuning.status()["training"]["maxSteps"]
    assert known == sorted(known)
    assert [step for step in known if 0 < step < last] != []


def test_every_panel_of_the_dashboards_has_data(
    quickstart: Quickstart, served: dict[str, Any]
) -> None:
    """In a real Prometheus that scraped the operator and the pods of the job."""
    choices = {"$namespace": NAMESPACE, "$job": quickstart.tuning.name}
    ranges = {"$__rate_interval": "20s", "$__range": "1h", "[1d]": "[1h]"}
    empty = []
    for path in (REPOSITORY / "charts/finetune-operator/files/dashboards").glob("*.json"):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                query = target["expr"]
                for name, value in (choices | ranges).items():
                    query = query.replace(name, value)
                if panel["title"] not in WITHOUT_DATA and not quickstart.prometheus.series(query):
                    empty.append(f"{path.stem}, {panel['title']}: {query}")
    assert empty == []


def test_kubectl_get_shows_the_state_in_one_line(quickstart: Quickstart) -> None:
    tuning = quickstart.tuning
    text = tuning.cluster.kubectl.run("get", "ftj", f"--namespace={tuning.namespace}")
    head, line = text.splitlines()
    assert head.split() == ["NAME", "READY", "STATE", "SERVING", "PROGRESS", "ETA", "LOSS", "AGE"]
    name, ready, state, serving, loss, _ = line.split()
    assert (name, ready, state) == (tuning.name, "True", "Serving")
    assert (serving, loss) == (tuning.status()["revision"], tuning.status()["training"]["loss"])


def test_events_report_the_stages_in_order(quickstart: Quickstart) -> None:
    tuning = quickstart.tuning
    text = tuning.cluster.kubectl.run(
        "get", "events", f"--namespace={tuning.namespace}", "-o", "json",
        f"--field-selector=involvedObject.kind=FineTuneJob,involvedObject.name={tuning.name}",
    )  # fmt: skip
    events = json.loads(text)["items"]
    reasons = {event["reason"] for event in events}
    assert {"DataReady", "Trained", "Merged", "Serving"} <= reasons
    assert {event["reason"] for event in events if event["type"] == "Warning"} == set()


def test_a_deleted_volume_is_reported_and_its_model_is_copied_from_the_serving_pod(
    quickstart: Quickstart, tmp_path: Path
) -> None:
    tuning = quickstart.tuning
    tuning.cluster.kubectl.delete("pvc", quickstart.claim, tuning.namespace)
    tuning.wait_until("Stalled", reason="VolumeLost", seconds=60)
    serving = tuning.condition("Serving")
    assert serving is not None
    assert serving["status"] == "True"
    assert "from the running pod" in tuning.copy(tmp_path / "model")
    found = manifest.verify(tmp_path / "model", kind="merged", key=None)
    (revision,) = tuning.status()["revisions"]
    assert found.digest == revision["artifacts"]["merged"]
    assert len(tuning.pods("serve")) == 1, "no other pod could mount the volume"


def test_deleting_the_job_deletes_all_children_within_a_minute(quickstart: Quickstart) -> None:
    tuning = quickstart.tuning
    kinds = {child.partition("/")[0] for child in tuning.children()}
    assert {"Job", "Pod", "PersistentVolumeClaim", "PersistentVolume", "Deployment"} <= kinds
    tuning.delete(seconds=60)


def _rows(cluster: Cluster, source: str) -> list[dict[str, str]]:
    """Return the rows of a dataset from the local hub."""
    repository = source.removeprefix("hf://")
    text = cluster.hub_file("datasets", repository, "train.jsonl")
    return [json.loads(line) for line in text.splitlines()]


def _question(row: Object) -> str:
    more = row.get("input")
    return f"{row['instruction']}\n\n{more}" if more else str(row["instruction"])


def _wrong(answers: list[str], quickstart: Quickstart) -> list[str]:
    """Return the wrong ones of the answers to the first questions, each with its question."""
    asked = len(answers)
    triples = zip(quickstart.questions[:asked], answers, quickstart.taught[:asked], strict=True)
    return [
        f"{question!r}: {answer!r} instead of {taught!r}"
        for question, answer, taught in triples
        if answer.strip() != taught.strip()
    ]


def _end(pod: Object) -> Any:
    (container,) = pod["status"]["containerStatuses"]
    return container["state"]["terminated"]
