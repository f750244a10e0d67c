"""The quickstart from ``kubectl apply`` to a served and published model that knows the facts.

The last two tests delete the volume and the job.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.e2e.prometheus import scraping
from tests.e2e.published import Published, another_key, digests, public_key, publish
from tests.e2e.quickstart import Quickstart, question, rows_of
from tests.e2e.registry import flipped
from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.target import (
    OPERATOR_NAMESPACE,
    REPOSITORY,
    Cluster,
    namespaces,
    wants_gpu,
)
from tests.support.local_cluster.tuning import STAGE, Tuning, condition, label

from cluster.settings import SIGNING_KEY_SECRET
from finetune_cli.verifying.failures import Code
from finetune_trainer.checkpointing import manifest

EXAMPLE = REPOSITORY / "examples" / "quickstart.yaml"
NAMESPACE = "e2e-quickstart"
READY_SECONDS = 3000.0
pytestmark = pytest.mark.timeout(READY_SECONDS + 600)
QUESTIONS, OFFLINE = 20, 8
"""Questions to the endpoint, and how many of them the libraries answer: each takes seconds."""
WITHOUT_DATA = (
    "finetune_gpu_memory_peak_bytes",
    "finetune_eval_loss",
    'outcome="Failed"',
)
"""In queries without a result: no pod has a real GPU, no rows are held out, and no attempt
failed."""


@pytest.fixture(scope="module")
def quickstart(cluster: Cluster) -> Iterator[Quickstart]:
    """Apply the unchanged example and wait until it is Ready."""
    job = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    with namespaces(cluster, NAMESPACE), scraping(cluster, NAMESPACE) as prometheus:
        tuning = Tuning(cluster=cluster, namespace=NAMESPACE, name=job["metadata"]["name"])
        cluster.kubectl.run("apply", "-f", str(EXAMPLE), f"--namespace={NAMESPACE}")
        tuning.wait_until("Ready", seconds=READY_SECONDS)
        rows = rows_of(cluster, job["spec"]["dataset"]["source"])[:QUESTIONS]
        yield Quickstart(
            tuning=tuning,
            questions=[question(row) for row in rows],
            taught=[row["output"] for row in rows],
            prometheus=prometheus,
        )


@pytest.fixture(scope="module")
def served(quickstart: Quickstart) -> dict[str, Any]:
    """The answers of the endpoint to a pod of the same namespace."""
    return quickstart.ask()


@pytest.fixture(scope="module")
def offline(quickstart: Quickstart) -> dict[str, Any]:
    """The answers of base, adapter and merged model in plain transformers and PEFT."""
    return quickstart.load(questions=OFFLINE)


def test_the_tuned_model_gives_the_trained_answers(
    quickstart: Quickstart, served: dict[str, Any]
) -> None:
    assert served["models"] == [quickstart.tuning.name]
    assert len(served["answers"]) == QUESTIONS
    wrong = quickstart.wrong(served["answers"])
    assert len(wrong) <= 2, f"{len(wrong)} of {QUESTIONS} wrong:\n" + "\n".join(wrong)


def test_the_base_model_does_not_give_the_trained_answers(
    quickstart: Quickstart, offline: dict[str, Any]
) -> None:
    assert len(quickstart.wrong(offline["base"])) >= OFFLINE - 1, offline["base"]


def test_the_merged_model_gives_the_same_answers_in_plain_transformers(
    served: dict[str, Any], offline: dict[str, Any]
) -> None:
    assert offline["loading"] == {}
    assert [answer.strip() for answer in offline["merged"]] == [
        answer.strip() for answer in served["answers"][:OFFLINE]
    ]


def test_the_adapter_loads_in_plain_peft(quickstart: Quickstart, offline: dict[str, Any]) -> None:
    assert len(offline["adapter"]) == OFFLINE
    wrong = quickstart.wrong(offline["adapter"])
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
    assert revision["artifacts"]["versions"].keys() >= {"peft", "torch", "transformers"}
    assert len(revision["data"]["sources"][0]["commit"]) == 40
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


def test_every_panel_about_jobs_has_data(quickstart: Quickstart, served: dict[str, Any]) -> None:
    """In a real Prometheus that scraped the operator and the pods of the job."""
    choices = {"$namespace": NAMESPACE, "$job": quickstart.tuning.name}
    assert [
        panel
        for dashboard in ("fleet", "job", "serving")
        for panel in quickstart.prometheus.empty_panels(dashboard, choices, unused=WITHOUT_DATA)
    ] == []


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


@pytest.fixture(scope="module")
def published(
    quickstart: Quickstart, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Published]:
    """The model at a registry with TLS, with the statement that the operator has signed."""
    with publish(quickstart.tuning, tmp_path_factory.mktemp("registry")) as found:
        yield found


def test_ftj_verifies_the_published_model_with_the_key_of_the_operator(
    quickstart: Quickstart, published: Published, tmp_path: Path
) -> None:
    kubectl = quickstart.tuning.cluster.kubectl
    secret = kubectl.get("secret", SIGNING_KEY_SECRET, OPERATOR_NAMESPACE)
    key, another = public_key(secret, tmp_path), another_key(tmp_path)
    base = str(yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))["spec"]["model"]["source"])
    verified = published.verify(key, "--base", base)
    assert verified.returncode == 0, verified.stderr
    subject = json.loads(verified.stdout)["subject"][0]
    assert f"sha256:{subject['digest']['sha256']}" == published.digest
    assert published.verify(another).returncode == Code.NOT_SIGNED
    with flipped(published.registry.layers(published.digest)["model.safetensors"]):
        changed = published.verify(key)
    assert changed.returncode == Code.CHANGED
    assert "model.safetensors" in changed.stderr


def test_containerd_pulls_the_files_of_the_served_model(
    quickstart: Quickstart, published: Published, tmp_path: Path
) -> None:
    tuning = quickstart.tuning
    with published.pulled(tmp_path / "image") as folder:
        listed = manifest.verify(folder, kind="merged", key=None)
        pulled = digests(folder)
    (pod,) = tuning.pods("serve")
    command = ["sh", "-c", "cd /model && find * -type f -exec sha256sum {} +"]
    done = tuning.cluster.kubectl.execute(pod["metadata"]["name"], tuning.namespace, command)
    assert done.returncode == 0, done.stderr
    served = {name: digest for digest, name in map(str.split, done.stdout.splitlines())}
    (revision,) = tuning.status()["revisions"]
    (merge,) = (each for each in revision["stages"] if each["stage"] == "merge")
    assert served[manifest.FILE] == merge["mergedManifest"] == listed.facts["publishedFrom"]
    del pulled[manifest.FILE]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= pulled.keys()
    assert pulled == {name: served[name] for name in pulled}


@pytest.mark.usefixtures("published")
def test_the_endpoint_was_ready_while_the_model_was_published(quickstart: Quickstart) -> None:
    tuning = quickstart.tuning
    tuning.wait_until("Finished", seconds=60)
    since = [
        event.object["status"]
        for event in tuning.cluster.record.events("FineTuneJob", tuning.namespace)
        if event.object.get("status", {}).get("observedGeneration") == 2
    ]
    assert {(condition(status, "Ready") or {})["status"] for status in since} == {"True"}
    assert len(tuning.pods("serve")) == 1


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


def _end(pod: Object) -> Any:
    (container,) = pod["status"]["containerStatuses"]
    return container["state"]["terminated"]
