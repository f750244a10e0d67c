"""The warnings of ``ftj estimate`` about jobs that the prepare stage would reject."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.cli.test_ftj import JOB
from tests.unit.trainer import shapes

from finetune_cli import __main__ as ftj


def warnings(
    folder: Path, capsys: pytest.CaptureFixture[str], config: dict[str, Any], **spec: Any
) -> list[str]:
    (folder / "config.json").write_text(json.dumps(shapes.LLAMA3_8B | config))
    (folder / "job.yaml").write_text(yaml.safe_dump(JOB | {"spec": JOB["spec"] | spec}))
    arguments = ["-f", str(folder / "job.yaml"), "--model", str(folder), "--card", "NVIDIA-H100"]
    assert ftj.main(["estimate", *arguments]) == 0
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if line.startswith("warning: ")]


def test_job_that_fits_gets_no_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    modules = {"lora": {"modulesToSave": ["embed_tokens", "lm_head"]}}
    assert warnings(tmp_path, capsys, {}) == []
    large = {"size": "100Gi"}
    assert warnings(tmp_path, capsys, {}, training=modules, storage=large) == []


def test_small_volume_is_reported_with_the_size_to_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = warnings(tmp_path, capsys, {}, storage={"size": "10Gi"})
    assert "GiB, but storage.size is 10Gi: set storage.size: " in found
    size = found.rsplit(" ", 1)[1]
    assert warnings(tmp_path, capsys, {}, storage={"size": size}) == []


def test_embedding_and_head_that_are_one_tensor_cannot_be_trained_in_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tied = {"tie_word_embeddings": True}
    training = {"lora": {"modulesToSave": ["embed_tokens", "lm_head"]}}
    assert warnings(tmp_path, capsys, tied) == []
    large = {"size": "100Gi"}
    (found,) = warnings(tmp_path, capsys, tied, training=training, storage=large)
    assert "remove training.lora.modulesToSave" in found
