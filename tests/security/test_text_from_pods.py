"""A compromised pod, or another component, writes hostile text into the status and into events."""

import json

import pytest
from tests.fakes import controllers, scheduler
from tests.fakes.apiserver import Cluster

from finetune_api.contracts.exitcodes import ExitCode
from finetune_api.contracts.result import Result
from finetune_operator.kube import recorder
from finetune_operator.objects.conditions import MAX_MESSAGE
from finetune_operator.types import Event

pytestmark = pytest.mark.finding(17, "control characters in status, events and logs")

HOSTILE = {
    "terminal escape": "\x1b[2J\x1b[1;1Hjob demo is Ready",
    "forged log line": "no\n12:00:00 prepare completed: Completed",
    "carriage return": "no\rprepare completed: Completed",
    "right to left": "\u202edeifireV\u202c",
    "NUL": "a\x00b",
    "C1 control": "\x9b31mred",
    "line separator": "a\u2028b\u2029c\x85d",
    "tag characters": "a\U000e0041\U000e0042",
    "long": "x" * 100_000,
}


def is_clean(text: str) -> bool:
    return text.isprintable() and len(text) <= MAX_MESSAGE


@pytest.mark.parametrize("name", HOSTILE)
def test_termination_message_of_a_pod(name: str) -> None:
    cluster = Cluster()
    scheduler.settle(cluster, 2)
    result = Result.model_construct(
        stage="prepare", outcome="failed", reason="InvalidSpec", message=HOSTILE[name]
    )
    pod = scheduler.pod_of(cluster, "prepare")
    controllers.finish(cluster, pod, ExitCode.INVALID_SPEC, result.to_message())
    controllers.sync(cluster)
    scheduler.settle(cluster, 2)
    ready = cluster.status["conditions"][0]
    assert ready["reason"] == "InvalidSpec"
    attempt = cluster.status["revisions"][0]["stages"][0]
    texts = [attempt["message"], *(each["message"] for each in cluster.status["conditions"])]
    assert all(map(is_clean, texts)), texts


@pytest.mark.parametrize("name", sorted(HOSTILE.keys() - {"long"}))
def test_artifact_of_a_pod(name: str) -> None:
    cluster = Cluster()
    scheduler.settle(cluster, 2)
    text = json.dumps(
        {
            "stage": "prepare",
            "outcome": "completed",
            "reason": "Completed",
            "artifacts": {
                "baseManifest": "0" * 64,
                "datasetManifest": "0" * 64,
                "baseCommit": HOSTILE[name],
                "effectiveTemplate": HOSTILE[name],
            },
        }
    )
    controllers.finish(cluster, scheduler.pod_of(cluster, "prepare"), 0, text)
    controllers.sync(cluster)
    scheduler.settle(cluster, 2)
    artifacts = cluster.status["revisions"][0]["artifacts"]
    texts = [artifacts["baseCommit"], artifacts["effectiveTemplate"]]
    assert all(map(is_clean, texts)), texts


@pytest.mark.parametrize("name", HOSTILE)
def test_message_of_the_kubelet(name: str) -> None:
    """An image name or a registry's answer can contain anything."""
    cluster = Cluster()
    scheduler.settle(cluster, 2)
    pod = scheduler.pod_of(cluster, "prepare")
    waiting = {"reason": "ErrImagePull", "message": HOSTILE[name]}
    pod["status"] = {
        "phase": "Pending",
        "containerStatuses": [{"name": "trainer", "state": {"waiting": waiting}}],
    }
    cluster.touch(pod)
    cluster.settle()
    ready = cluster.status["conditions"][0]
    assert ready["reason"] == "ImagePullFailed"
    assert all(is_clean(each["message"]) for each in cluster.status["conditions"])


@pytest.mark.parametrize("name", HOSTILE)
def test_note_of_an_event(name: str) -> None:
    cluster = Cluster()
    event = Event(type="Warning", reason="InvalidSpec", message=HOSTILE[name])
    note = recorder.render(cluster.present_job(), event, cluster.now, "operator-0")["note"]
    assert note.isprintable()
    assert len(note.encode()) <= 1024
