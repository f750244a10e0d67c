"""Jobs that cannot succeed are rejected before they request a GPU; the message contains the cause.

All jobs run prepare at the same time, each in a separate namespace.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from tests.support.local_cluster import locks, pods
from tests.support.local_cluster.pods import Task
from tests.support.local_cluster.target import Cluster, namespaces, wants_gpu
from tests.support.local_cluster.tuning import ATTEMPT, DEMO_MODEL, STAGE, Tuning, label, small

STALLED_SECONDS = 60.0
STAGING_SECONDS = 900.0
TOKEN = "hf_demo"

LOCKS = {locks.OPERATOR: "shared"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A spec that fails in prepare, with the reason and parts of the message."""

    spec: Mapping[str, Any]
    reason: str
    words: tuple[str, ...]


CASES = {
    "broken-row": Case(
        spec=small(dataset={"source": "hf://demo/broken-row", "maxSamples": None}),
        reason="DatasetInvalid",
        words=("row 7 of train.jsonl",),
    ),
    "gated-model": Case(
        spec=small(model={"source": "hf://demo/gated"}),
        reason="AccessDenied",
        words=("demo/gated", "model.tokenSecretRef"),
    ),
    "full-volume": Case(
        spec=small(model={"source": DEMO_MODEL}, storage={"storageClassName": "local-path-small"}),
        reason="VolumeFull",
        words=("demo/smollm2-135m-instruct", "64.0Mi", "spec.storage.size"),
    ),
}


@pytest.fixture(scope="module")
def failed(cluster: Cluster) -> Iterator[dict[str, Tuning]]:
    """The jobs of all cases, after each has stalled."""
    jobs = {name: Tuning(cluster=cluster, namespace=f"e2e-{name}", name="small") for name in CASES}
    with namespaces(cluster, *(tuning.namespace for tuning in jobs.values())):
        for name, tuning in jobs.items():
            tuning.apply(CASES[name].spec)
        for tuning in jobs.values():
            tuning.wait_until("Stalled", seconds=STAGING_SECONDS)
        yield jobs


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> str:
    """The name of a case."""
    return str(request.param)


def test_a_failed_job_stalls_with_the_message_of_the_trainer(
    failed: dict[str, Tuning], case: str
) -> None:
    stalled = failed[case].wait_until("Stalled", seconds=1)
    assert stalled["reason"] == CASES[case].reason, stalled
    ready = failed[case].condition("Ready")
    assert ready is not None
    assert (ready["status"], ready["reason"]) == ("False", CASES[case].reason)
    for word in CASES[case].words:
        assert word in ready["message"], ready


def test_a_failed_job_stalls_soon_after_its_pod_has_ended(
    failed: dict[str, Tuning], case: str
) -> None:
    tuning = failed[case]
    record = tuning.cluster.record
    ended = next(
        event.at
        for event in record.events("Pod", tuning.namespace)
        if event.object["status"].get("phase") == "Failed"
    )
    reported = next(
        event.at
        for event in record.events("FineTuneJob", tuning.namespace)
        if any(
            each["type"] == "Stalled"
            for each in event.object.get("status", {}).get("conditions", ())
        )
    )
    assert reported - ended < STALLED_SECONDS


def test_a_failed_job_is_not_retried_and_no_gpu_was_requested(
    failed: dict[str, Tuning], case: str
) -> None:
    ever = failed[case].cluster.record.events("Pod", failed[case].namespace)
    own = [event.object for event in ever if label(event.object, STAGE)]
    assert {label(pod, STAGE) for pod in own} == {"prepare"}
    assert len({pod["metadata"]["uid"] for pod in own}) == 1
    assert not any(wants_gpu(pod) for pod in own)


def test_no_incomplete_folder_is_published(failed: dict[str, Tuning], case: str) -> None:
    tuning = failed[case]
    task = Task(
        script="volume.py",
        image=tuning.cluster.operator_image(),
        claim=f"{tuning.name}-{tuning.status()['revision']}",
    )
    found = pods.run(tuning.cluster, tuning.namespace, task)
    assert found["published"] == {}
    assert [name for name in found["others"] if not name.startswith(".")] == ["lock.json"]


@pytest.fixture
def gpus() -> Iterator[None]:
    """A shared lock on the GPUs, for a job that reaches training."""
    with locks.shared(locks.GPUS):
        yield


@pytest.mark.usefixtures("gpus")
def test_a_valid_token_retries_the_download_of_a_gated_model(failed: dict[str, Tuning]) -> None:
    tuning = failed["gated-model"]
    tuning.cluster.kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "hf-token", "namespace": tuning.namespace},
            "stringData": {"token": TOKEN},
        }
    )
    tuning.change(model={"tokenSecretRef": {"name": "hf-token"}}, dataset={"maxSamples": 16})
    # The status contains the earlier failure until the operator has observed the edit.
    tuning.wait(
        "the edit is observed",
        lambda status: status["observedGeneration"] == 2,
        seconds=240,
        stalls=True,
    )
    tuning.wait_until("DataReady", seconds=STAGING_SECONDS)
    assert [label(job, ATTEMPT) for job in tuning.jobs("prepare")] == ["1", "2"]
