"""Facts that the verbs on jobs read from objects, and how a terminal shows them."""

import io
import re
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console

from finetune_api.v1alpha1.reasons import Reason
from finetune_cli import terminal
from finetune_cli.cluster import ownership, pods, remedies, rollback, stages
from finetune_cli.cluster.job import Job
from finetune_cli.errors import CommandFailed
from finetune_cli.jobs import watch
from finetune_cli.jobs.changing import retry

REVISION = "0a1b2c3d"


def job(*attempts: dict[str, Any], conditions: dict[str, str] | None = None, **status: Any) -> Job:
    given = conditions or {}
    found = [{"type": type_, "status": value, "reason": "R"} for type_, value in given.items()]
    return Job(
        object={
            "metadata": {"name": "demo", "namespace": "team", "generation": 2},
            "spec": {},
            "status": {
                "observedGeneration": 2,
                "revision": REVISION,
                "build": "b2",
                "conditions": found,
                "revisions": [
                    {"revision": "old", "stages": [{"stage": "train", "outcome": "Failed"}]},
                    {"revision": REVISION, "stages": list(attempts)},
                ],
                **status,
            },
        }
    )


def attempt(stage: str, outcome: str, **more: Any) -> dict[str, Any]:
    return {"stage": stage, "outcome": outcome, "attempt": 1, **more}


@pytest.mark.parametrize(
    ("attempts", "stage"),
    [
        ([], None),
        ([attempt("prepare", "Completed")], "prepare"),
        ([attempt("prepare", "Completed"), attempt("train", "Running")], "train"),
        ([attempt("train", "Stopped"), attempt("prepare", "Completed")], "train"),
        (
            [attempt("merge", "Failed", build="b2"), attempt("serve", "Running", build="b2")],
            "merge",
        ),
        (
            [attempt("serve", "Running", build="b2"), attempt("merge", "Failed", build="b1")],
            "serve",
        ),
    ],
)
def test_the_stage_that_matters_is_that_of_the_present_build(
    attempts: list[dict[str, Any]], stage: str | None
) -> None:
    assert job(*attempts).stage == stage


def test_a_status_of_an_earlier_spec_is_not_finished() -> None:
    done = {"Finished": "True"}
    assert job(conditions=done).finished
    assert not job(conditions=done, observedGeneration=1).finished
    assert not Job(object={"metadata": {"name": "new", "generation": 1}}).finished


def test_the_duration_of_a_stage_is_that_of_the_job_of_its_attempt() -> None:
    def stage_job(number: str, end: dict[str, Any]) -> dict[str, Any]:
        labels = {"job": "demo", "revision": REVISION, "stage": "train", "attempt": number}
        return {
            "metadata": {"labels": {f"finetune.dev/{key}": text for key, text in labels.items()}},
            "status": {"startTime": "2026-01-01T00:00:00Z", **end},
        }

    failed = {"type": "Failed", "status": "True", "lastTransitionTime": "2026-01-01T00:02:00Z"}
    jobs = [
        stage_job("1", {"conditions": [failed]}),
        stage_job("2", {"completionTime": "2026-01-01T01:00:00Z"}),
    ]
    (line,) = stages.stages(job(attempt("train", "Failed", failures=2, reason="R")), jobs)
    assert (line.time, line.detail) == ("2m00s", "R; 2 failures")
    (line,) = stages.stages(job(attempt("train", "Completed") | {"attempt": 2}), jobs)
    assert line.time == "1h00m"
    (line,) = stages.stages(job(attempt("train", "Completed") | {"attempt": 3}), jobs)
    assert line.time == "-", "its Job was deleted"


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_is_explained_without_markdown(reason: Reason) -> None:
    text = f"{remedies.meaning(reason)} {remedies.remedy(reason)}"
    assert not re.search(r"`|\]\(|\\|\.\./", text)
    assert remedies.meaning("Unheard") is None
    assert remedies.remedy("Unheard") is None


def test_a_remedy_names_the_pages_of_its_links() -> None:
    text = str(remedies.remedy("Unschedulable"))
    assert "(GPU models: docs/how-to/gpu-models.md" in text, "no parentheses within parentheses"


@pytest.mark.parametrize(
    ("metadata", "owner"),
    [
        ({}, None),
        ({"labels": {"argocd.argoproj.io/instance": "app"}}, "Argo CD"),
        ({"annotations": {"argocd.argoproj.io/tracking-id": "app:…"}}, "Argo CD"),
        ({"labels": {"kustomize.toolkit.fluxcd.io/name": "apps"}}, "Flux"),
        ({"labels": {"helm.toolkit.fluxcd.io/name": "apps"}}, "Flux"),
        ({"managedFields": [{"manager": "argocd-controller"}]}, "Argo CD"),
        ({"managedFields": [{"manager": "kustomize-controller"}]}, "Flux"),
        ({"managedFields": [{"manager": "argocd-controller", "subresource": "status"}]}, None),
        ({"managedFields": [{"manager": "kubectl-client-side-apply"}]}, None),
    ],
)
def test_the_tool_that_applies_a_job_from_git_is_found(
    metadata: dict[str, Any], owner: str | None
) -> None:
    assert ownership.owner({"metadata": metadata}) == owner


@pytest.mark.parametrize(
    ("limits", "phase", "count"),
    [
        ({"nvidia.com/gpu": "1"}, "Running", 1),
        ({"nvidia.com/mig-1g.10gb": 2}, "Pending", 2),
        ({"nvidia.com/gpu": "1", "nvidia.com/hostdev": "8"}, "Running", 1),
        ({"amd.com/gpu": "1", "cpu": "4"}, "Running", 1),
        ({"cpu": "4"}, "Running", 0),
        ({"nvidia.com/gpu": "1"}, "Succeeded", 0),
    ],
)
def test_the_gpus_of_a_pod_are_counted(limits: dict[str, Any], phase: str, count: int) -> None:
    pod = {
        "spec": {"containers": [{"resources": {"limits": limits}}, {}]},
        "status": {"phase": phase},
    }
    assert pods.gpus(pod) == count


def test_a_waiting_container_shows_the_exit_code_of_its_last_run() -> None:
    status = {
        "name": "vllm",
        "restartCount": 3,
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
        "lastState": {"terminated": {"exitCode": 137}},
    }
    (found,) = pods.containers({"status": {"containerStatuses": [status]}})
    assert found.text == "waiting with exit code 137 (CrashLoopBackOff) after 3 restarts: back-off"
    assert not found.healthy


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_bars_fit_the_terminal(columns: int) -> None:
    running = job(
        attempt("prepare", "Completed"),
        attempt("train", "Running"),
        conditions={"Ready": "False"},
        progress="train 57%",
        eta="4m10s",
        training={"progressPercent": 57, "loss": "1.2345"},
    )
    failed = job(attempt("prepare", "Failed"), conditions={"Ready": "False", "Stalled": "True"})
    output = io.StringIO()
    console = Console(file=output, width=columns, force_terminal=True, color_system=None)
    console.print(watch._table([running, failed], columns))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= columns
    if columns == 40:
        assert [line.split() for line in lines] == [
            ["NAME", "STATE", "LEFT"],
            ["demo", "train", "57%", "4m10s"],
            ["demo", "R"],
        ]
    if columns == 120:
        assert "train 57%" in lines[1]
        assert "4m10s left" in lines[1]
        assert "failed" in lines[2]


def test_values_are_neither_markup_nor_control_characters(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    value = "[red]x[/red] :smile: \x1b[2J\u202e 10.0.0.1"
    terminal.line(value)
    terminal.paragraph(value)
    terminal.table((value,), [(value,)])
    terminal.pairs((("A", value),))
    text = capsys.readouterr().out
    assert text.count("[red]x[/red] :smile: \\x1b[2J\\u202e 10.0.0.1") == 5
    assert "\x1b" not in text


@pytest.mark.parametrize(("variables", "colored"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colors_are_for_terminals(
    variables: dict[str, str], colored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    output = Terminal()
    terminal.console(output).print(terminal.text("Failed", "red"))
    assert ("\x1b[31m" in output.getvalue()) == colored


def test_a_merge_patch_replaces_lists_and_removes_nulls() -> None:
    before = {"a": {"b": 1, "c": 2}, "d": [1], "e": 5}
    assert rollback.merged(before, {"a": {"b": None, "x": 3}, "d": [2], "e": None}) == {
        "a": {"c": 2, "x": 3},
        "d": [2],
    }


@pytest.mark.parametrize(
    ("allowed", "counters", "after"),
    [
        (None, {}, 21),
        (3, {}, 4),
        (3, {"failures": 2, "disruptions": 9, "preemptions": 50}, 12),
        (30, {"failures": 2}, 31),
    ],
)
def test_a_retry_allows_more_restarts_than_the_stage_has_had(
    allowed: int | None, counters: dict[str, Any], after: int
) -> None:
    found = retried(allowed, **counters)
    assert found[0] == {"spec": {"runPolicy": {"maxRestarts": after}}}
    assert "retries the stage train, with the files that are on the volume (spec" in found[1]
    assert found[1].endswith("To follow it, run: ftj watch demo")


def test_a_retry_of_a_paused_job_waits_until_it_is_resumed() -> None:
    text = retried(None, suspend=True)[1]
    assert text.startswith("is paused, and after it is resumed, it retries the stage train")
    assert text.endswith("To resume it, run: ftj resume demo")


@pytest.mark.parametrize(("allowed", "failures"), [(1000, 0), (3, 1000)])
def test_a_retry_does_not_exceed_the_maximum_of_restarts(allowed: int, failures: int) -> None:
    with pytest.raises(CommandFailed, match="would be 1001, above its maximum of 1000"):
        retried(allowed, failures=failures)


def retried(
    allowed: int | None, *, suspend: bool = False, **counters: int
) -> tuple[Mapping[str, Any], str]:
    """Return the change of ``ftj retry``, and its effect, for a job whose training has failed."""
    found = job(attempt("prepare", "Completed"), attempt("train", "Failed", **counters))
    policy = {} if allowed is None else {"maxRestarts": allowed}
    spec = {"runPolicy": policy, "suspend": suspend}
    return retry.decide(Job(object={**found.object, "spec": spec}))
