"""What ``make run`` says at the end can be typed as it stands."""

import re
from pathlib import Path

import pytest

from cluster import demo, kubectl

READY = {"status": {"endpoint": "http://quickstart-serve.default.svc:8000/v1"}}


def said(capsys: pytest.CaptureFixture[str], kubeconfig: Path | None, *, public: bool) -> str:
    client = kubectl.Client(kubectl_program="kubectl", helm_program="helm", kubeconfig=kubeconfig)
    demo._farewell(client, READY, 60.0, public=public)
    return capsys.readouterr().out


@pytest.mark.parametrize("kubeconfig", [None, Path("/somewhere")])
def test_every_command_names_the_namespace_of_the_job(
    capsys: pytest.CaptureFixture[str], kubeconfig: Path | None
) -> None:
    text = said(capsys, kubeconfig, public=True)
    commands = re.findall(r"kubectl (?:port-forward|get|apply|delete)[^;)\n]*", text)
    assert len(commands) >= 4
    assert [command for command in commands if "-n default" not in command] == []


def test_taking_it_down_names_what_was_made(capsys: pytest.CaptureFixture[str]) -> None:
    rows = "kubectl delete configmap quickstart-rows -n default"
    assert rows in said(capsys, None, public=True)
    assert rows not in said(capsys, None, public=False)
    local = said(capsys, Path("/somewhere"), public=False)
    assert "Take it all down: make down\n" in local
    assert "export KUBECONFIG=" in local
