"""Outcome of a Job: Completed only if its condition and its result agree."""

from typing import Any

import pytest
from tests.fakes.apiserver import Thing
from tests.fakes.controllers import message

from finetune_operator.objects import naming
from finetune_operator.objects.jobs import is_over
from finetune_operator.reconcile.stages import outcome


def job(condition: str | None = None, status: str = "True", reason: str = "") -> Thing:
    conditions = [{"type": condition, "status": status, "reason": reason}] if condition else []
    return {
        "metadata": {"name": "j", "uid": "uid-of-j", "labels": {naming.STAGE: "merge"}},
        "spec": {},
        "status": {"conditions": conditions},
    }


def pod(
    text: str | None, code: int = 0, *, at: str = "1", of: str = "j", container: str = "trainer"
) -> Thing:
    state: Thing = {"running": {}}
    if text is not None:
        state = {"terminated": {"exitCode": code, "message": text, "finishedAt": at}}
    return {
        "kind": "Pod",
        "metadata": {
            "name": f"p{at}",
            "ownerReferences": [{"uid": f"uid-of-{of}", "controller": True}],
            "creationTimestamp": at,
        },
        "status": {"containerStatuses": [{"name": container, "state": state}]},
    }


DONE = message("merge")
HALF_WAY = message("merge", globalStep=9, maxSteps=10)
ALL_STEPS = message("merge", globalStep=10, maxSteps=10)
STOPPED = message("merge", "stopped")
BROKEN = message("merge", "failed", reason="NotMergeable", message="no")


def kind_of(ended: outcome.Outcome | None) -> tuple[str, str] | None:
    return None if ended is None else (ended.kind, ended.reason)


@pytest.mark.parametrize(
    ("given", "pods", "expected"),
    [
        pytest.param(job(), [pod(DONE)], None, id="no condition, whatever the pod says"),
        pytest.param(job("Complete", "False"), [pod(DONE)], None, id="a condition that is False"),
        pytest.param(job("FailureTarget"), [pod(BROKEN, 84)], None, id="not yet failed"),
        pytest.param(job("SuccessCriteriaMet"), [pod(DONE)], None, id="not yet complete"),
        pytest.param(job("Complete"), [pod(DONE)], ("Completed", "Completed"), id="both agree"),
        pytest.param(job("Complete"), [], ("Unproved", "ResultMissing"), id="no pod"),
        pytest.param(job("Complete"), [pod("")], ("Unproved", "ResultMissing"), id="no message"),
        pytest.param(job("Complete"), [pod("{}")], ("Unproved", "ResultMissing"), id="no result"),
        pytest.param(
            job("Complete"), [pod(DONE[:-1])], ("Unproved", "ResultMissing"), id="cut off"
        ),
        pytest.param(job("Complete"), [pod(STOPPED)], ("Unproved", "ResultMissing"), id="stopped"),
        pytest.param(job("Complete"), [pod(BROKEN)], ("Unproved", "ResultMissing"), id="failed"),
        pytest.param(
            job("Complete"),
            [pod(DONE, of="another")],
            ("Unproved", "ResultMissing"),
            id="another Job's pod",
        ),
        pytest.param(
            job("Complete"),
            [pod(DONE, container="sidecar")],
            ("Unproved", "ResultMissing"),
            id="another container",
        ),
        pytest.param(
            job("Complete"),
            [pod(DONE, at="2"), pod(STOPPED, 143, at="1")],
            ("Completed", "Completed"),
            id="the newest pod that completed counts",
        ),
        pytest.param(
            job("Failed"),
            [pod(BROKEN, 84, at="1"), pod("", 137, at="2")],
            ("Failed", "RetriesExhausted"),
            id="an older terminal failure does not count",
        ),
        pytest.param(
            job("Complete"),
            [pod(HALF_WAY)],
            ("Unproved", "ResultMissing"),
            id="completed, but not all steps",
        ),
        pytest.param(
            job("Complete"),
            [pod(ALL_STEPS)],
            ("Completed", "Completed"),
            id="completed, all steps",
        ),
        pytest.param(
            job("Failed"),
            [pod(BROKEN, 84, at="1"), pod(None, at="2")],
            ("Failed", "NotMergeable"),
            id="a running pod does not hide an older failure",
        ),
        pytest.param(job("Failed"), [pod(BROKEN, 84)], ("Failed", "NotMergeable"), id="its reason"),
        pytest.param(job("Failed"), [pod(DONE)], ("Failed", "RetriesExhausted"), id="a Job's word"),
        pytest.param(job("Failed"), [], ("Failed", "RetriesExhausted"), id="failed without a pod"),
    ],
)
def test_the_end_of_a_job(given: Thing, pods: list[Thing], expected: Any) -> None:
    ended = outcome.of(given, pods)
    assert kind_of(ended) == expected
    assert is_over(given) == (expected is not None)


def test_a_failure_without_a_pod_quotes_the_jobs_reason() -> None:
    ended = outcome.of(job("Failed", reason="DeadlineExceeded"), [])
    assert ended is not None
    assert ended.message == (
        "Job j failed (DeadlineExceeded): no pod is left. Run kubectl logs job/j."
    )


def test_a_pod_that_was_killed_for_its_memory_names_the_field_to_raise() -> None:
    killed = pod("", 137)
    killed["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] = "OOMKilled"
    ended = outcome.of(job("Failed"), [killed])
    assert kind_of(ended) == ("Failed", "OutOfMemory")
    assert ended is not None
    assert "Raise spec.resources.merge.limits.memory" in ended.message


def test_the_trainers_result_precedes_oom_killed() -> None:
    killed = pod(BROKEN, 84)
    killed["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] = "OOMKilled"
    assert kind_of(outcome.of(job("Failed"), [killed])) == ("Failed", "NotMergeable")


def test_a_result_before_the_last_step_names_its_step() -> None:
    ended = outcome.of(job("Complete"), [pod(HALF_WAY)])
    assert ended is not None
    assert "its result reports step 9 of 10" in ended.message


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_pods_that_ended_within_a_second_the_newer_one_counts(order: int) -> None:
    older, newer = pod(STOPPED, 143, at="1"), pod(DONE, at="2")
    for each in (older, newer):
        each["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = "3"
    ended = outcome.of(job("Complete"), [older, newer][::order])
    assert kind_of(ended) == ("Completed", "Completed")


def disrupted(each: Thing, *, deleted: bool = False) -> Thing:
    if deleted:
        each["metadata"]["deletionTimestamp"] = "1"
    else:
        condition = {"type": "DisruptionTarget", "status": "True"}
        each["status"]["conditions"] = [condition]
    return each


def overdue(seconds: int | None) -> Thing:
    found = job("Failed", reason="DeadlineExceeded")
    found["spec"] = {} if seconds is None else {"activeDeadlineSeconds": seconds}
    return found


LOGS = "Run kubectl logs job/j."
DISRUPTED = "The pod of Job j was disrupted before it could report a result."
NO_RESULT = f"Job j completed, but its pod did not report that the stage is complete. {LOGS}"
OVERDUE = (
    "Possible causes: a large download, a slow server of the source, or a chat template whose "
    "rendering does not end. If the download needs more time, raise "
    "spec.runPolicy.prepareDeadlineSeconds."
)
NO_DIGESTS = message("merge", artifacts={"mergedManifest": "x"})


@pytest.mark.parametrize(
    ("given", "pods", "reason", "text"),
    [
        (job("Complete"), [pod(DONE)], "Completed", "merge completed"),
        (job("Complete"), [], "ResultMissing", NO_RESULT),
        (job("Complete"), [pod(message("train"))], "ResultMissing", None),
        (
            job("Complete"),
            [pod(HALF_WAY)],
            "ResultMissing",
            f"Job j completed, but its result reports step 9 of 10. {LOGS}",
        ),
        (
            job("Complete"),
            [pod(NO_DIGESTS)],
            "ResultMissing",
            f"Job j completed, but its result lacks the digests of its output folders. {LOGS}",
        ),
        (job("Complete"), [pod(STOPPED)], "ResultMissing", NO_RESULT),
        (job("Complete"), [disrupted(pod(STOPPED))], "Stopped", DISRUPTED),
        (job("Complete"), [disrupted(pod(STOPPED), deleted=True)], "Stopped", DISRUPTED),
        (
            job("Complete"),
            [disrupted(pod(STOPPED, at="1")), pod(STOPPED, at="2")],
            "ResultMissing",
            NO_RESULT,
        ),
        (job("Failed"), [pod(BROKEN, 84)], "NotMergeable", "no"),
        (
            job("Failed", reason="BackoffLimitExceeded"),
            [pod("", 137)],
            "RetriesExhausted",
            f"Job j failed (BackoffLimitExceeded): the last pod exited with code 137. {LOGS}",
        ),
        (
            job("Failed", reason="PodFailurePolicy"),
            [pod("", 143)],
            "RetriesExhausted",
            "Job j failed (PodFailurePolicy): the last pod was stopped externally before it "
            f"completed. {LOGS}",
        ),
        (
            overdue(None),
            [],
            "RetriesExhausted",
            f"Job j failed (DeadlineExceeded): no pod is left. {LOGS}",
        ),
        (
            overdue(60),
            [],
            "DeadlineExceeded",
            f"Job j did not complete within 60 s. {OVERDUE}",
        ),
        (
            overdue(60),
            [pod(BROKEN, 84)],
            "DeadlineExceeded",
            f"Job j did not complete within 60 s. NotMergeable: no. {OVERDUE}",
        ),
    ],
)
def test_the_end_of_a_job_is_explained(
    given: Thing, pods: list[Thing], reason: str, text: str | None
) -> None:
    ended = outcome.of(given, pods)
    assert ended is not None
    assert ended.reason == reason
    if text is not None:
        assert ended.message == text


@pytest.mark.parametrize(
    ("container", "reason", "killed"),
    [("trainer", "OOMKilled", True), ("trainer", "Error", False), ("sidecar", "OOMKilled", False)],
)
def test_only_the_trainers_memory_counts(container: str, reason: str, killed: bool) -> None:
    each = pod("", 137, container=container)
    each["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] = reason
    assert outcome.out_of_memory([pod(None), each]) is killed
    assert outcome.killed_for_memory(job()) == (
        "Job j exceeded its memory limit and was killed. Raise spec.resources.merge.limits.memory."
    )
