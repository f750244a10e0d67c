"""Validation of the configuration at startup, and the log format."""

import json
import logging
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from finetune_operator import manager
from finetune_operator.kube.errors import Transient
from finetune_operator.manager import ConfigurationError, load_config, main
from finetune_operator.revisions.documents import MOST_FROZEN_BYTES
from finetune_operator.telemetry import logs

VALID = "images: {trainer: t, serving: s, operator: o}\n"


def test_minimal_configuration_is_valid(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(VALID)
    assert load_config(tmp_path / "c.yaml").images.trainer == "t"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file: "),
        ("images: {trainer: t}", "images.serving: Field required"),
        ("a: [", "invalid YAML"),
        (VALID + "image: x", "image: Extra inputs are not permitted"),
        (VALID + "logLevel: loud", "logLevel: 'loud' is invalid"),
        (VALID + "defaults: {training: {epochs: -1}}", "c.yaml: defaults.training.epochs"),
        (
            VALID + "hub: {endpoint: 'http://mirror.example.com:8081'}",
            "port 8081 of mirror.example.com is not in egress.ports, so prepare pods cannot reach "
            "the hub. Set egress.hubCidrs",
        ),
        (
            VALID + "proxy: {url: 'http://proxy.example.com:3128'}",
            "proxy.url: NetworkPolicies cannot select the host name proxy.example.com. Set "
            "proxy.cidrs",
        ),
        (
            VALID + "proxy: {url: 'http://10.0.0.1:3128', cidrs: [169.254.169.254/32]}",
            "169.254.169.254/32 contains only addresses of cloud metadata services",
        ),
        (VALID + "caCertificates: none", "caCertificates: Value error, no CA certificates in PEM"),
    ],
    ids=[
        "empty file",
        "missing field",
        "invalid YAML",
        "unknown field",
        "unknown log level",
        "invalid default",
        "hub on a closed port",
        "proxy without addresses",
        "proxy at a metadata service",
        "no certificates",
    ],
)
def test_invalid_configuration_names_the_field(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_config(tmp_path / "c.yaml")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "hub: {endpoint: 'https://mirror.example.com'}",
        "hub: {endpoint: 'http://10.0.0.7:8081'}",
        "hub: {endpoint: 'http://hub.models.svc:8081'}",
        "hub: {endpoint: 'http://mirror.example.com:8081'}\negress: {hubCidrs: [192.0.2.0/24]}",
        "hub: {endpoint: 'http://mirror.example.com'}\negress: {ports: [80]}",
        "hub: {endpoint: 'https://mirror.example.com:8443'}\nproxy: {url: 'http://10.0.0.1:3128'}",
    ],
)
def test_hub_that_prepare_pods_can_reach_is_valid(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(VALID + text)
    assert load_config(tmp_path / "c.yaml").hub.host


def test_configuration_must_fit_the_status(tmp_path: Path) -> None:
    template = "x" * MOST_FROZEN_BYTES
    (tmp_path / "c.yaml").write_text(VALID + f"defaults: {{dataset: {{chatTemplate: {template}}}}}")
    with pytest.raises(ConfigurationError, match="at most 32768 are allowed"):
        load_config(tmp_path / "c.yaml")


async def test_blocked_connection_names_the_chart_value(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A NetworkPolicy shows as a time-out; an answer of the API server is not its fault."""

    class ApiServer:
        server = "10.96.0.1:443"
        failures: ClassVar = [TimeoutError("timed out"), None]

        async def require_crd(self) -> None:
            if self.failures:
                raise Transient("GET /apis/finetune.dev/v1alpha1: failed") from self.failures.pop(0)

    monkeypatch.setattr(manager, "RETRY_SECONDS", 0)
    await manager._wait_for_crd(ApiServer(), required=True)  # type: ignore[arg-type]
    blocked, answered = [record.getMessage() for record in caplog.records]
    assert "networkPolicy.apiServerPorts" in blocked
    assert "10.96.0.1:443" in blocked
    assert "networkPolicy" not in answered


def test_missing_file_ends_the_process_with_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        assert main(["--config", str(tmp_path / "none.yaml")]) == 1
    finally:
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)
        logging.captureWarnings(False)
    assert "No such file" in json.loads(capsys.readouterr().err)["message"]


def test_log_line_is_one_json_object_with_the_job() -> None:
    record = logging.makeLogRecord(
        {
            "name": "x",
            "levelname": "INFO",
            "msg": "a\n%s",
            "args": ("ä",),
            "child": "Job/j",
            "created": 1767225600.25,
            "taskName": "worker-1",
        }
    )
    with logs.for_job("ns", "demo"):
        line = logs.Formatter().format(record)
    assert "\n" not in line
    assert "ä" in line
    assert json.loads(line) == {
        "ts": "2026-01-01T00:00:00.250Z",
        "level": "info",
        "logger": "x",
        "message": "a\nä",
        "job": "ns/demo",
        "child": "Job/j",
    }
    assert "job" not in json.loads(logs.Formatter().format(record))


def test_log_line_of_an_error_has_the_traceback() -> None:
    try:
        raise KeyError("metadata")
    except KeyError:
        record = logging.makeLogRecord({"exc_info": sys.exc_info()})
    line = json.loads(logs.Formatter().format(record))
    assert line["exception"].endswith("KeyError: 'metadata'")
    assert "exc_info" not in line
