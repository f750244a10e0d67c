"""Validation of the configuration at startup, and the log format."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_operator.environment import CONFIG_FILE, ConfigurationError, load_config, read
from finetune_operator.revisions.documents import MOST_FROZEN_BYTES, frozen_part
from finetune_operator.telemetry import logs

VALID = "images: {trainer: t, serving: s, operator: o}\n"


def test_minimal_configuration_is_valid(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(VALID)
    assert load_config(tmp_path / "c.yaml")[1].images.trainer == "t"


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
        (
            VALID + "signatures: [{sources: ['.*'], keys: [none]}]",
            "policy.signatures[0]: this is no public key in PEM format. Print that of a private",
        ),
        (
            VALID + "signatures: [{sources: ['oci://r.example.com/*'], keys: [none]}]",
            "policy.signatures[0]: 'oci://r.example.com/*' is no regular expression for all",
        ),
        (VALID + "signatures: [{sources: ['.*'], keys: []}]", "signatures.0.keys: "),
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
        "no public key",
        "glob",
        "no keys",
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
    assert load_config(tmp_path / "c.yaml")[1].hub.host


def test_configuration_must_fit_the_status(tmp_path: Path) -> None:
    template = "x" * MOST_FROZEN_BYTES
    (tmp_path / "c.yaml").write_text(VALID + f"defaults: {{dataset: {{chatTemplate: {template}}}}}")
    with pytest.raises(ConfigurationError, match="at most 32768 are allowed"):
        load_config(tmp_path / "c.yaml")


def test_variables_have_defaults_and_a_wrong_port_names_its_variable() -> None:
    found = read({"POD_NAME": "operator-1", "FINETUNE_PROBE_PORT": "1234"})
    assert (str(found.config_file), found.identity) == (CONFIG_FILE, "operator-1")
    assert (found.metrics_port, found.probe_port) == (8080, 1234)
    for wrong in ("http", "0", "65536", "-1"):
        with pytest.raises(ConfigurationError, match=r"^FINETUNE_METRICS_PORT: .* is not a port"):
            read({"FINETUNE_METRICS_PORT": wrong})


def test_missing_file_ends_the_process_with_code_1(tmp_path: Path) -> None:
    variables = {"FINETUNE_CONFIG": str(tmp_path / "none.yaml"), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "finetune_operator"], env=variables, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "No such file" in json.loads(done.stderr)["message"]


def test_log_line_is_one_json_object_with_the_reconciled_object() -> None:
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
    with logs.reconciling("FineTuneJob", "ns", "demo"):
        line = logs.Formatter().format(record)
    assert "\n" not in line
    assert "ä" in line
    assert json.loads(line) == {
        "ts": "2026-01-01T00:00:00.250Z",
        "level": "info",
        "logger": "x",
        "message": "a\nä",
        "kind": "FineTuneJob",
        "namespace": "ns",
        "name": "demo",
        "child": "Job/j",
    }
    assert "kind" not in json.loads(logs.Formatter().format(record))


def test_log_line_of_an_error_has_the_traceback() -> None:
    try:
        raise KeyError("metadata")
    except KeyError:
        record = logging.makeLogRecord({"exc_info": sys.exc_info()})
    line = json.loads(logs.Formatter().format(record))
    assert line["exception"].endswith("KeyError: 'metadata'")
    assert "exc_info" not in line


def test_settings_are_equal_by_value(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(VALID)
    (_, one), (_, other) = (load_config(tmp_path / "c.yaml") for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    changed = one.model_copy(update={"image_pull_policy": "Always"})
    assert changed != one
    assert changed.digest != one.digest


def test_operator_json_has_the_settings_in_the_order_of_earlier_versions(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(VALID)
    frozen = json.loads(frozen_part(load_config(tmp_path / "c.yaml")[1]))
    names = ["images", "imagePullPolicy", "imagePullSecrets", "hub", "gpu", "serving", "defaults"]
    assert list(frozen) == names


def test_errors_of_both_parts_are_reported_together(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(VALID + "watchNamespaces: a\nbogus: 1\n")
    with pytest.raises(ConfigurationError, match=r"watchNamespaces.*; bogus: Extra inputs"):
        load_config(tmp_path / "c.yaml")
