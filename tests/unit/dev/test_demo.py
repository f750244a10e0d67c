"""The summary that ``make run`` prints: its commands can be copied."""

import re
from pathlib import Path

import pytest

from cluster import kubectl
from cluster.demo import quickstart
from finetune_cli.commands.table import COMMANDS

READY = {"status": {"endpoint": "http://quickstart-serve.default.svc:8000/v1"}}


def summary(capsys: pytest.CaptureFixture[str], kubeconfig: Path | None, *, public: bool) -> str:
    client = kubectl.Client(kubectl_program="kubectl", helm_program="helm", kubeconfig=kubeconfig)
    quickstart._print_summary(client, READY, 60.0, public=public)
    return capsys.readouterr().out


@pytest.mark.parametrize("kubeconfig", [None, Path("/somewhere")])
def test_every_command_has_the_namespace_of_the_job(
    capsys: pytest.CaptureFixture[str], kubeconfig: Path | None
) -> None:
    text = summary(capsys, kubeconfig, public=True)
    commands = re.findall(
        r"(?:kubectl (?:port-forward|get|apply|patch|delete)|ftj (?:status|why|rerun))[^;\n]*", text
    )
    assert len(commands) >= 7
    assert [command for command in commands if "-n default" not in command] == []


def test_the_gpu_is_released_without_deleting_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    """Only what removes everything deletes the job, whose volume has the model."""
    advice, _, removal = summary(capsys, None, public=False).partition("To remove everything")
    assert """-p '{"spec": {"serving": {"replicas": 0}}}'""" in advice
    assert "kubectl delete ftj" not in advice
    assert "kubectl delete ftj" in removal


def test_the_verbs_of_the_job_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    text = summary(capsys, None, public=False)
    named = re.findall(r"^      ftj ([a-z]+) quickstart -n default$", text, re.MULTILINE)
    assert len(named) == 3
    assert set(named) <= set(COMMANDS)


def test_a_job_that_is_ready_is_not_to_be_deleted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = {"type": "Ready", "status": "True", "reason": "Serving", "message": ""}
    present = {
        "metadata": {"name": "quickstart", "generation": 1},
        "status": {"conditions": [{**ready, "observedGeneration": 1}]},
    }
    monkeypatch.setattr(kubectl.Client, "get", lambda *_: present)
    monkeypatch.setattr(kubectl.Client, "kubectl", lambda *_, **__: None)
    client = kubectl.Client(kubectl_program="kubectl", helm_program="helm", kubeconfig=None)
    quickstart._apply(client, [], public=False)
    text = capsys.readouterr().out
    assert "ftj rerun quickstart -n default" in text
    assert "delete" not in text


def test_removal_commands_cover_all_created_objects(capsys: pytest.CaptureFixture[str]) -> None:
    rows = "kubectl delete configmap quickstart-rows -n default"
    assert rows in summary(capsys, None, public=True)
    assert rows not in summary(capsys, None, public=False)
    local = summary(capsys, Path("/somewhere"), public=False)
    assert "To remove everything, run: make down\n" in local
    assert "export KUBECONFIG=" in local


def test_jobs_of_an_earlier_version_are_listed_with_the_fix(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(name: str, reason: str) -> dict[str, object]:
        stalled = {"type": "Stalled", "status": "True", "reason": reason, "message": ""}
        conditions = [{**stalled, "observedGeneration": 1}]
        metadata = {"name": name, "namespace": "team", "generation": 1}
        return {"metadata": metadata, "status": {"conditions": conditions}}

    jobs = [found("old", "UnsupportedVersion"), found("failed", "DatasetInvalid")]
    monkeypatch.setattr(kubectl.Client, "get", lambda *_: {"items": jobs})
    client = kubectl.Client(kubectl_program="kubectl", helm_program="helm", kubeconfig=None)
    quickstart._report_unsupported(client)
    output = capsys.readouterr().out
    assert "    kubectl delete ftj old -n team\n" in output
    assert "failed" not in output
    jobs.clear()
    quickstart._report_unsupported(client)
    assert capsys.readouterr().out == ""
