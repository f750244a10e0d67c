"""The conditions of a job as CloudEvents."""

import json
import re
from typing import Any

import pytest
from tests.fakes.apiserver import Cluster
from tests.support.gitops.healths import JOBS
from tests.support.reconcile.serving_steps import REMERGE, finish_stages, serving

from finetune_operator.notifications.events import events

SHOWN = {
    "unobserved": [],
    "preparing": [],
    "training": [],
    "queued": [],
    "secret-missing": [],
    "suspended": ["paused"],
    "secret-missing-for-long": ["stalled"],
    "endpoint-down": ["succeeded", "stalled"],
    "dataset-invalid": ["failed"],
    "candidate-failed": ["succeeded", "failed"],
    "serving": ["succeeded", "ready"],
    "completed": ["succeeded", "ready"],
}


def named(job: dict[str, Any]) -> list[str]:
    shown = events(job, job.get("status") or {})
    return [event.type.removeprefix("fine_tuning.job.") for event in shown]


@pytest.mark.parametrize("situation", SHOWN)
def test_events_of_a_situation(situation: str) -> None:
    assert named(JOBS[situation]) == SHOWN[situation]


def test_an_event_has_the_attributes_of_cloudevents() -> None:
    job = JOBS["serving"]
    succeeded, ready = (json.loads(event.to_json()) for event in events(job, job["status"]))
    metadata, status = job["metadata"], job["status"]
    (condition,) = [each for each in status["conditions"] if each["type"] == "Succeeded"]
    time = condition["lastTransitionTime"]
    assert succeeded == {
        "specversion": "1.0",
        "id": f"{metadata['uid']}/succeeded/{time}",
        "source": "/apis/finetune.dev/v1alpha1/namespaces/"
        f"{metadata['namespace']}/finetunejobs/{metadata['name']}",
        "type": "fine_tuning.job.succeeded",
        "subject": metadata["name"],
        "time": time,
        "datacontenttype": "application/json",
        "data": succeeded["data"],
    }
    assert ready["data"] == succeeded["data"]
    assert re.fullmatch(r"[0-9T:-]+Z", time)


def test_data_has_the_state_of_the_job_and_nothing_of_its_spec() -> None:
    job = JOBS["dataset-invalid"]
    (event,) = events(job, job["status"])
    ready = job["status"]["conditions"][0]
    assert event.data == {
        "namespace": "ns",
        "name": "demo",
        "uid": job["metadata"]["uid"],
        "revision": job["status"]["revision"],
        "build": job["status"]["build"],
        "reason": "DatasetInvalid",
        "message": ready["message"],
    }
    ready["message"] = "x" * 5000
    (event,) = events(job, job["status"])
    assert len(event.data["message"]) == 1024


def test_the_same_transition_has_the_same_id_and_another_one_another_id() -> None:
    cluster = serving(2)

    def ids() -> set[str]:
        return {event.id for event in events(cluster.present_job(), cluster.status)}

    first = ids()
    cluster.wait(60)
    cluster.settle()
    assert ids() == first
    cluster.edit(**REMERGE)
    finish_stages(cluster, 2, "merge")
    assert {each.split("/")[1] for each in ids()} == {"succeeded"}
    cluster.edit(merge={"dtype": None})
    cluster.settle()
    again = ids()
    assert {each.split("/")[1] for each in again} == {"succeeded", "ready"}
    assert len(again - first) == 1, "it was not ready in between"


def test_a_pause_and_its_end() -> None:
    cluster = Cluster()
    cluster.edit(suspend=True)
    cluster.settle()
    (paused,) = events(cluster.present_job(), cluster.status)
    cluster.edit(suspend=False)
    cluster.settle()
    assert events(cluster.present_job(), cluster.status) == ()
    cluster.wait(60)
    cluster.edit(suspend=True)
    cluster.settle()
    (again,) = events(cluster.present_job(), cluster.status)
    assert paused.id != again.id


def test_an_edit_of_a_paused_job_is_no_second_pause() -> None:
    cluster = Cluster()
    cluster.edit(suspend=True)
    cluster.settle()
    (paused,) = events(cluster.present_job(), cluster.status)
    cluster.wait(60)
    cluster.edit(training={"seed": 1})
    cluster.settle()
    (still,) = events(cluster.present_job(), cluster.status)
    assert (paused.id, paused.time) == (still.id, still.time)
    assert paused.data["revision"] != still.data["revision"]


def test_a_stalled_job_that_fails_and_then_only_waits_has_a_new_event_each_time() -> None:
    def shown(stalled: str, finished: str, at: str) -> str:
        conditions = [
            {"type": "Stalled", "status": "True", "reason": "R", "lastTransitionTime": stalled},
            {"type": "Finished", "status": finished, "reason": "R", "lastTransitionTime": at},
        ]
        job = JOBS["serving"]
        (event,) = events(job, {"conditions": conditions})
        return event.id.removeprefix(job["metadata"]["uid"])

    first, second, third = (f"2030-01-01T00:00:0{second}Z" for second in (1, 2, 3))
    assert shown(second, "False", first) == f"/stalled/{second}"
    assert shown(first, "True", second) == f"/failed/{second}"
    assert shown(first, "False", third) == f"/stalled/{third}"
    assert shown(third, "True", second) == f"/failed/{third}"
