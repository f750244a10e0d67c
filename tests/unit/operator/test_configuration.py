"""A configuration that cannot be used is refused at start, in words that say what to change."""

import json
import logging
from pathlib import Path

import pytest

from finetune_operator.manager import ConfigurationError, configuration, main
from finetune_operator.telemetry import logs

GOOD = "images: {trainer: t, serving: s, operator: o}\n"


def test_the_least_that_is_needed(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(GOOD)
    assert configuration(tmp_path / "c.yaml").images.trainer == "t"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "the file: "),
        ("images: {trainer: t}", "images.serving: Field required"),
        ("a: [", "not YAML"),
        (GOOD + "image: x", "image: Extra inputs are not permitted"),
        (GOOD + "logLevel: loud", "logLevel: 'loud' is not debug"),
        (GOOD + "defaults: {training: {epochs: -1}}", "c.yaml: defaults.training.epochs"),
    ],
    ids=["empty", "missing", "not YAML", "unknown", "log level", "defaults"],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        configuration(tmp_path / "c.yaml")
    assert complaint in str(caught.value)


def test_a_file_that_is_not_there_ends_the_process_with_a_reason(
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


def test_a_line_of_the_log_is_one_object_that_names_the_job() -> None:
    record = logging.makeLogRecord(
        {"name": "x", "levelname": "INFO", "msg": "a\n%s", "args": ("b",), "child": "Job/j"}
    )
    with logs.about("ns", "demo"):
        line = logs.JsonFormatter().format(record)
    assert "\n" not in line
    said = json.loads(line)
    assert (said["job"], said["child"], said["message"]) == ("ns/demo", "Job/j", "a\nb")
    assert "job" not in json.loads(logs.JsonFormatter().format(record))
