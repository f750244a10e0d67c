"""``ftj status`` and ``ftj watch`` take the same names: one job, several, or all."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.cli.jobs.conftest import Objects, Run

Job = Callable[[str], dict[str, Any]]


@pytest.mark.parametrize("columns", [120, None])
def test_status_of_several_jobs_is_a_table(run: Run, columns: int | None) -> None:
    code, text, _ = run("status", "velmora", "support", "velmora", columns=columns)
    assert code == 0
    names = [line.split()[0] for line in text.splitlines() if line[0] != " "]
    assert names == ["NAME", "velmora", "support"]
    assert run("status", "velmora", "support", columns=40)[0] == 0
    code, text, _ = run("status", "velmora", "support", "-o", "json")
    assert [each["name"] for each in json.loads(text)] == ["velmora", "support"]
    assert json.loads(run("status", "velmora", "-o", "json")[1])["name"] == "velmora"
    assert len(json.loads(run("status", "-o", "json")[1])) == 3


@pytest.mark.parametrize("verb", ["status", "watch"])
def test_a_missing_job_among_several_is_one_line(run: Run, verb: str) -> None:
    code, out, err = run(verb, "velmora", "absent")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "FineTuneJob absent does not exist" in err


def test_stages_have_whole_words_in_a_narrow_terminal(run: Run) -> None:
    wide, narrow = run("status", "support", columns=120)[1], run("status", "support", columns=40)[1]
    assert "ATTEMPT  TIME   DETAIL" in wide
    (head,) = (line.split() for line in narrow.splitlines() if "STAGE" in line)
    assert head == ["STAGE", "STATE", "ATTEMPT", "TIME"]
    assert ["prepare", "Completed", "1", "3m00s"] in [line.split() for line in narrow.splitlines()]
    assert "  train: " in narrow, "details are below the table"


def test_durations_of_stages_are_known_after_their_jobs_are_deleted(run: Run, job: Job) -> None:
    stage = job("velmora")["status"]["revisions"][-1]["stages"][3]
    stage |= {
        "stage": "publish",
        "started": "2026-03-02T08:00:00Z",
        "ended": "2026-03-02T08:02:30Z",
    }
    found = json.loads(run("status", "velmora", "-o", "json")[1])["stages"]
    assert [each["seconds"] for each in found if each["stage"] == "publish"] == [150.0]


def test_the_place_among_the_pods_that_wait_is_shown(run: Run, objects: Objects) -> None:
    """The scheduler has no list: pods that have waited longer are before a pod."""
    pods = objects["/api/v1/pods"]
    (own,) = (pod for pod in pods if pod["metadata"]["labels"]["finetune.dev/job"] == "billing")
    other = copy.deepcopy(own)
    other["metadata"] |= {"name": "older", "namespace": "team-b", "labels": {}}
    other["status"]["startTime"] = "2020-01-01T00:00:00Z"
    pods.append(other)
    text = run("status", "billing")[1]
    assert "Number 2 of 2 that wait, the longest first." in text
    facts = json.loads(run("status", "billing", "-o", "json")[1])
    assert (facts["podPosition"], facts["queuePosition"]) == (2, None), "Kueue has no part in it"
    assert json.loads(run("status", "velmora", "-o", "json")[1])["podPosition"] is None


def test_the_place_in_a_queue_and_the_holders_of_the_gpus_are_shown(
    run: Run, objects: Objects, job: Job
) -> None:
    """A Job that Kueue holds has no pod, so the operator alone knows its place."""
    pods = objects["/api/v1/pods"]
    pods[:] = [pod for pod in pods if pod["metadata"]["labels"]["finetune.dev/job"] != "billing"]
    billing = job("billing")
    billing["spec"]["queueName"] = "gpu"
    billing["status"]["queuePosition"] = 3
    for condition in billing["status"]["conditions"]:
        condition["reason"] = "Queued"
    lines = run("status", "billing")[1].splitlines()
    assert "  Queue     number 3 in LocalQueue gpu" in lines
    assert any(line.split()[:3] == ["gpu-1", "team-a/velmora", "(serve)"] for line in lines)
    assert not any("that wait" in line for line in lines)
    facts = json.loads(run("status", "billing", "-o", "json")[1])
    assert (facts["queuePosition"], facts["podPosition"]) == (3, None)
    assert "team-a/velmora" in {f"{pod['namespace']}/{pod['job']}" for pod in facts["gpus"]}
