"""A repository has templates that never end, deeply nested documents and hostile file names."""

import hashlib
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from tests.fakes import controllers, scheduler
from tests.fakes.apiserver import Cluster
from tests.support.trainer import tiny
from tests.support.trainer.workshop import Server, Workshop

from finetune_api.safety import untrusted_json
from finetune_operator.manifests.pod import SCRATCH_LIMIT
from finetune_trainer.checkpointing import manifest, safetensors_header
from finetune_trainer.checkpointing.manifest import ManifestError
from finetune_trainer.data.rows import bounded_reader
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.sources.hub import Hub
from finetune_trainer.volume import files
from finetune_verify import volume
from finetune_verify.errors import Mismatch

pytestmark = pytest.mark.finding(17, "work without end, and deep nesting")

NESTED = {
    "arrays": "[" * 200_000,
    "closed arrays": "[" * 100_000 + "]" * 100_000,
    "objects": '{"a":' * 100_000,
    "mixed": '[{"a":' * 50_000,
}


def config(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    files.read_json(folder / "config.json")


def header(folder: Path, text: str) -> None:
    data = text.encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(data)) + data)
    safetensors_header.header_of(folder / "model.safetensors")


def own_manifest(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    manifest.read(folder)


def served_manifest(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    volume.read(folder, "merged", sha256=hashlib.sha256(text.encode()).hexdigest())


def row(folder: Path, text: str) -> None:
    bounded_reader.parsed(text)


READERS: dict[str, tuple[Callable[[Path, str], None], type[Exception]]] = {
    "config.json": (config, InvalidSpec),
    "safetensors header": (header, InvalidSpec),
    "manifest": (own_manifest, ManifestError),
    "manifest of a served folder": (served_manifest, Mismatch),
    "row": (row, ValueError),
}


@pytest.mark.parametrize("shape", NESTED)
@pytest.mark.parametrize("reader", READERS)
def test_deeply_nested_document_is_rejected(tmp_path: Path, reader: str, shape: str) -> None:
    read, error = READERS[reader]
    with pytest.raises(error):
        read(tmp_path, NESTED[shape])


@pytest.mark.parametrize("shape", NESTED)
def test_deeply_nested_answer_of_a_hub_is_rejected(
    monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    def parsed(*_: Any, **__: Any) -> Any:
        return json.loads(NESTED[shape])

    monkeypatch.setattr(HfApi, "repo_info", parsed)
    hub = Hub(kind="model", source="hf://acme/evil", revision="main", token=None, ca_file=None)
    with pytest.raises(InvalidSpec, match="nested too deeply"):
        hub.pin()


def test_nesting_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        untrusted_json.parse(NESTED["closed arrays"])
    assert untrusted_json.parse('{"a": [1]}') == {"a": [1]}


def manifests(cluster: Cluster) -> dict[str, Any]:
    scheduler.settle(cluster, 2)
    (job,) = cluster.each("Job")
    return job


def test_prepare_has_a_deadline_and_its_end_is_terminal() -> None:
    """The Job controller deletes the pod of a template that never ends, and fails the Job."""
    cluster = Cluster()
    job = manifests(cluster)
    assert job["spec"]["activeDeadlineSeconds"] == 21600
    cluster.remove(scheduler.pod_of(cluster, "prepare"))
    job["status"] = {
        "failed": 1,
        "conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}],
    }
    cluster.touch(job)
    scheduler.settle(cluster, 2)
    ready = cluster.status["conditions"][0]
    assert ready["reason"] == "DeadlineExceeded"
    assert "did not complete within 21600 s" in ready["message"]
    assert "spec.runPolicy.prepareDeadlineSeconds" in ready["message"]
    cluster.wait(7 * 24 * 3600)
    scheduler.settle(cluster, 2)
    assert len(list(cluster.each("Job"))) == 1, "nothing is retried without an edit"
    cluster.edit(runPolicy={"prepareDeadlineSeconds": 43200})
    scheduler.settle(cluster, 2)
    assert [each["spec"]["activeDeadlineSeconds"] for each in cluster.each("Job")][-1] == 43200


LOOP = "{% for number in range(99999) %}"
ENDLESS = f"{LOOP}{LOOP}{{% endfor %}}{{% endfor %}}"
"""A template of 10 billion rounds: the sandbox limits the length of one range only."""


@pytest.mark.filterwarnings("default")
def test_template_that_never_ends_stops_with_the_pod(
    trainers: dict[str, Server], tmp_path: Path
) -> None:
    """The Job controller deletes the pod of an overdue Job, which sends SIGTERM."""
    tiny.model(tmp_path / "claims" / "models")
    (tmp_path / "dataset").mkdir()
    rows = "".join(json.dumps(row) + "\n" for row in tiny.rows(24))
    (tmp_path / "dataset" / "rows.jsonl").write_text(rows, encoding="utf-8")
    dataset = {"chatTemplate": ENDLESS, "promptTemplate": "chat"}
    job = tiny.job("pvc://models", "configmap://rows/rows.jsonl", dataset=dataset)
    workshop = Workshop(trainers, tmp_path, tmp_path / "work", job)
    running = workshop.start(
        "prepare",
        FINETUNE_CONFIG_DIR=str(tmp_path),
        FINETUNE_SOURCES_DIR=str(tmp_path / "claims"),
    )
    running.until(lambda: "model pvc://models is pinned" in (tmp_path / "log").read_text())
    running.process.join(5)
    assert running.process.is_alive(), (tmp_path / "log").read_text()
    running.process.terminate()
    running.process.join(30)
    ended = running.wait()
    assert (ended.code, ended.result["outcome"]) == (143, "stopped")


def test_scratch_volumes_have_a_size_limit() -> None:
    cluster = Cluster()
    seen = set()
    for stage in ("prepare", "train", "merge", "serve"):
        scheduler.settle(cluster, 2)
        pod = scheduler.pod_of(cluster, stage)
        for each in pod["spec"]["volumes"]:
            if "emptyDir" in each:
                assert each["emptyDir"].get("sizeLimit"), (stage, each)
                seen.add((stage, each["name"], each["emptyDir"]["sizeLimit"]))
        if stage != "serve":
            controllers.finish(cluster, pod, 0, controllers.message(stage))
            controllers.sync(cluster)
    assert {(stage, "scratch", SCRATCH_LIMIT) for stage in ("prepare", "merge", "serve")} <= seen


NAMES = {
    "terminal escape": "\x1b]0;owned\x07\x1b[2Jrows.jsonl",
    "forged line": "rows\n12:00:00 prepare completed: Completed\n.jsonl",
    "right to left": "rows\u202elnosj.exe",
    "not UTF-8": "rows\udcff.jsonl",
}
LOG = """
import sys
from finetune_api.safety import redaction
redaction.install()
from finetune_trainer.runtime.progress import log
name = {name!r}
log(f"download of {{name}} interrupted")
print(name, file=sys.stderr)
raise ValueError(f"{{name}} is damaged")
"""


@pytest.mark.parametrize("name", NAMES)
def test_file_name_with_control_characters_is_escaped_in_the_log(name: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LOG.format(name=NAMES[name])],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        check=False,
    )
    text = ended.stderr.decode()
    assert all(line.isprintable() for line in text.splitlines()), text
    own, *_ = text.splitlines()
    assert own.endswith("interrupted")
    assert json.dumps(text)
