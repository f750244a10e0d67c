"""Small contracts between the processes: texts, security contexts, files and variables."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from finetune_api.contracts import ports, reference, termination
from finetune_api.contracts.pod_security import container_security, pod_security
from finetune_api.contracts.reference import Reference, Scores
from finetune_api.contracts.result import Result
from finetune_api.safety.printable import escaped, printable
from finetune_api.safety.untrusted_json import parse
from finetune_api.v1alpha1.status.artifacts import TrainArtifacts


def test_pods_meet_the_restricted_pod_security_standard() -> None:
    assert pod_security() == {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "fsGroup": 1000,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for read_only in (True, False):
        assert container_security(read_only_root=read_only) == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": read_only,
        }


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain", "plain"),
        (" a \n\t b ", "a b"),
        ("a\x1b[2K", "a\\x1b[2K"),
        ("a\u202eb", "a\\u202eb"),
    ],
)
def test_text_from_outside_is_one_line(text: str, line: str) -> None:
    assert printable(text) == line


def test_some_control_characters_can_be_kept() -> None:
    assert escaped("a\n\tb", keep="\n") == "a\n\\tb"


def test_json_that_is_nested_too_deeply_is_a_value_error() -> None:
    assert parse('{"a": [1]}') == {"a": [1]}
    with pytest.raises(ValueError, match=r"^it is nested too deeply$"):
        parse("[" * 100_000)


def test_metrics_are_served_on_the_documented_ports() -> None:
    """docs/reference/metrics.md; NetworkPolicies of clusters name the ports."""
    assert (ports.TRAINER_METRICS, ports.VERIFIER_METRICS) == (9400, 9401)
    assert ports.POD_UID_VARIABLE == "FINETUNE_POD_UID"


def test_names_of_files_that_earlier_versions_wrote() -> None:
    assert (reference.FOLDER, reference.FILE) == ("reference", "reference.json")
    assert reference.KIND == "reference"
    assert termination.DEFAULT_PATH == "/dev/termination-log"


def test_result_is_written_without_credentials_or_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_value")
    result = Result(
        stage="train",
        outcome="failed",
        reason="Transient",
        message="hf_secret_value",
        warnings=["hf_secret_value"],
        artifacts=TrainArtifacts(adapter="hf_secret_value"),
    )
    logged: list[str] = []
    file = tmp_path / "log"
    monkeypatch.setenv("FINETUNE_TERMINATION_LOG", str(file))
    termination.write(result, logged.append)
    text = file.read_text()
    assert "hf_secret_value" not in text
    found = Result.from_message(text)
    assert found is not None
    assert (found.stage, found.outcome, found.reason) == ("train", "failed", "Transient")
    assert logged == []
    monkeypatch.setenv("FINETUNE_TERMINATION_LOG", str(tmp_path / "absent" / "log"))
    termination.write(result, logged.append)
    (line,) = logged
    assert line.startswith(f"the result cannot be written to {tmp_path}/absent/log (")
    assert line.endswith(text)


def test_reference_documents_have_camel_case_names_and_hide_their_input() -> None:
    def scores(*tuned: float) -> dict[str, list[float]]:
        return {"base": [], "tuned": list(tuned), "rounded": []}

    row = {
        "ids": [1, 2, 3, 4, 5],
        "spans": [[1, 2], [3, 5]],
        "dequantized": scores(0.1),
        "original": scores(0.2, 0.3),
        "promptIds": [1],
    }
    found = Reference.model_validate({"rows": [row, row], "heldOut": True})
    assert found.tokens == 4
    assert found.rows[0].positions == [1, 3, 4]
    assert found.rows[0].scores("dequantized") == Scores(base=[], tuned=[0.1], rounded=[])
    assert found.rows[0].scores("original").tuned == [0.2, 0.3]
    assert found.model_dump()["rows"][0]["promptIds"] == [1]
    by_name = {"prompt_ids" if key == "promptIds" else key: value for key, value in row.items()}
    assert Reference.model_validate({"rows": [by_name, row], "held_out": True}) == found
    for wrong in (row | {"ids": ["private text", 2]}, row | {"private": 1}, row | {"ids": [1]}):
        with pytest.raises(ValidationError) as error:
            Reference.model_validate({"rows": [wrong], "heldOut": True})
        assert "private text" not in str(error.value)
    with pytest.raises(ValidationError):
        found.held_out = False  # type: ignore[misc]
