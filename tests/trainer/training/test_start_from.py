"""Training that continues from another adapter: its start, its resumption, and its lineage."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.trainer.faults import KilledAfterCheckpoint
from tests.support.trainer.hub import Hub
from tests.support.trainer.stores import assert_failed, sha256
from tests.support.trainer.workshop import Workshop
from tests.trainer.conftest import MakeWorkshop

from finetune_trainer.checkpointing import manifest
from finetune_trainer.reporting.loss_history import LossHistory

SOURCE = "pvc://parent/adapter"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def claims(done: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the claims: one has the published adapter of another job."""
    folder = tmp_path_factory.mktemp("claims")
    shutil.copytree(done.work / "adapter", folder / "parent" / "adapter")
    return folder


def spec(**training: Any) -> dict[str, Any]:
    more = {"advanced": {"saveSteps": 2}} | training
    return {"training": {"startFrom": {"source": SOURCE}, **more}}


@pytest.fixture(scope="module")
def child(make: MakeWorkshop, claims: Path) -> Workshop:
    """A job that has continued from the adapter; tests must not change it."""
    workshop = make(**spec())
    workshop.succeed("prepare", FINETUNE_SOURCES_DIR=str(claims))
    workshop.succeed("train")
    workshop.succeed("merge", build="b1")
    return workshop


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def losses(workshop: Workshop) -> list[float]:
    return [loss for _, loss in LossHistory.load(workshop.work / "adapter")["loss"]]


def test_training_begins_where_the_other_ended(done: Workshop, child: Workshop) -> None:
    assert weights(child.work / "start") == weights(done.work / "adapter")
    assert weights(child.work / "adapter") != weights(done.work / "adapter")
    assert losses(child)[0] < losses(done)[0]


def test_lineage_is_recorded(done: Workshop, child: Workshop, claims: Path) -> None:
    parent = manifest.read(done.work / "adapter")
    start = manifest.read(child.work / "start")
    assert start.facts["baseCommit"] == parent.facts["baseCommit"]
    fact = manifest.read(child.work / "adapter").facts["startFrom"]
    assert fact == {
        "source": SOURCE,
        "commit": start.facts["commit"],
        "digest": start.digest,
        "manifest": start.sha256,
    }
    artifacts = child.succeed("prepare", FINETUNE_SOURCES_DIR=str(claims)).result["artifacts"]
    assert (artifacts["startCommit"], artifacts["startDigest"]) == (fact["commit"], start.digest)
    merged = child.work / "merged-b1"
    assert manifest.read(merged).facts["startFrom"] == fact
    for folder in (child.work / "adapter", merged):
        card = (folder / "README.md").read_text()
        assert f"| continued from | `{SOURCE}` |" in card
        assert f"| digest of that adapter | `{start.digest}` |" in card
    assert "startFrom" not in manifest.read(done.work / "adapter").facts


def test_killed_training_resumes_from_its_checkpoint_alone(
    make: MakeWorkshop, child: Workshop
) -> None:
    workshop = make()
    workshop.write(child.job)
    for name in ("base", "dataset", "start"):
        shutil.copytree(child.work / name, workshop.work / name)
    ended = workshop.with_fault(KilledAfterCheckpoint(step=2)).run("train")
    assert ended.code == -signal.SIGKILL
    assert "training continues from the adapter in training.startFrom" in ended.log
    before = len(ended.log)
    log = workshop.succeed("train").log[before:]
    assert "resuming from the checkpoint of step 2" in log
    assert "training continues from the adapter" not in log
    assert weights(workshop.work / "adapter") == weights(child.work / "adapter")


def test_changed_adapter_is_refused(make: MakeWorkshop, child: Workshop, done: Workshop) -> None:
    workshop = make()
    workshop.write(child.job)
    for name in ("base", "dataset", "start"):
        shutil.copytree(child.work / name, workshop.work / name)
    data = bytearray(weights(workshop.work / "start"))
    data[-1] ^= 1
    (workshop.work / "start" / "adapter_model.safetensors").write_bytes(data)
    said = "start/adapter_model.safetensors has changed since it was published"
    assert_failed(workshop.run("train"), 78, "ResumeRefused", said)


def test_adapter_that_does_not_fit_is_refused_before_the_weights_are_downloaded(
    make: MakeWorkshop, claims: Path, hub: Hub, repositories: dict[str, str]
) -> None:
    settings = {"FINETUNE_SOURCES_DIR": str(claims)}
    hub.requests.clear()
    ended = make(**spec(lora={"r": 8})).run("prepare", **settings)
    assert_failed(ended, 64, "InvalidSpec", "set training.lora.r to 16, or choose another adapter")
    other = make(model={"source": repositories["plain"]}, **spec())
    said = "in training.startFrom was trained on commit", "of hf://demo/tiny, but the model of"
    assert_failed(other.run("prepare", **settings), 64, "InvalidSpec", *said)
    assert not [each for each in hub.requests if each.endswith(".safetensors")]
    ended = make(**spec(lora={"targetModules": ["q_proj"]})).run("prepare", **settings)
    said = "set targetModules to the modules of the adapter, [down_proj", "unlike training.lora"
    assert_failed(ended, 64, "InvalidSpec", *said)


def test_foreign_adapter_warns_that_the_commit_is_unproved(
    make: MakeWorkshop, claims: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "parent" / "adapter"
    shutil.copytree(claims / "parent" / "adapter", folder)
    (folder / "manifest.json").unlink()
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"revision": None}))
    ended = make(**spec()).run("prepare", FINETUNE_SOURCES_DIR=str(tmp_path))
    assert ended.code == 0, ended.log
    (warning,) = [each for each in ended.result["warnings"] if "nothing proves" in each]
    assert "names its base demo/tiny without a commit" in warning
    shutil.copy(claims / "parent" / "adapter" / "manifest.json", folder)
    ended = make(**spec()).run("prepare", FINETUNE_SOURCES_DIR=str(tmp_path))
    said = "manifest.json, but it describes another adapter_config.json: publish the adapter"
    assert_failed(ended, 64, "InvalidSpec", said)
    (folder / "manifest.json").write_bytes(b" " * (5 << 20))
    ended = make(**spec()).run("prepare", FINETUNE_SOURCES_DIR=str(tmp_path))
    assert [each for each in ended.result["warnings"] if "nothing proves" in each], ended.log
    shutil.rmtree(folder)
    shutil.copytree(claims / "parent" / "adapter", folder)
    (folder / "adapter_config.json").unlink()
    ended = make(**spec()).run("prepare", FINETUNE_SOURCES_DIR=str(tmp_path))
    assert_failed(ended, 64, "InvalidSpec", "has no file adapter_config.json")


@pytest.mark.parametrize("backend", ["trl", "unsloth"])
def test_each_backend_begins_with_the_weights_of_the_adapter(
    make: MakeWorkshop, claims: Path, done: Workshop, backend: str
) -> None:
    # Steps that change nothing: the result is what the training began with.
    still = {"learningRate": 1e-30, "maxSteps": 2, "epochs": None}
    advanced = {"backend": backend, "weightDecay": 0.0, "saveSteps": 2}
    workshop = make(**spec(**still, advanced=advanced))
    workshop.succeed("prepare", FINETUNE_SOURCES_DIR=str(claims))
    log = workshop.succeed("train").log
    assert "training continues from the adapter in training.startFrom" in log
    began, start = (load_file(each.work / "adapter" / WEIGHTS) for each in (workshop, done))
    assert began.keys() == start.keys()
    assert any(bool(each.any()) for name, each in start.items() if "lora_B" in name)
    for name, tensor in start.items():
        assert torch.equal(began[name].float(), tensor.float()), name


def test_lineage_names_the_job_that_published_the_adapter(
    make: MakeWorkshop, claims: Path, done: Workshop
) -> None:
    published = sha256((done.work / "adapter" / "manifest.json").read_bytes())
    parent = {"job": "support", "revision": "0a1b2c3d", "digest": f"sha256:{'1' * 64}"}
    workshop = make(**spec())
    workshop.write({**workshop.job, "parent": {**parent, "manifest": published}})
    workshop.succeed("prepare", FINETUNE_SOURCES_DIR=str(claims))
    workshop.succeed("train")
    fact = manifest.read(workshop.work / "adapter").facts["startFrom"]
    assert (fact["job"], fact["revision"], fact["published"]) == tuple(parent.values())
    card = (workshop.work / "adapter" / "README.md").read_text()
    assert "| job and revision of that adapter | `support`, `0a1b2c3d` |" in card
    assert f"| published digest of that adapter | `{parent['digest']}` |" in card
    other = make(**spec())
    other.write({**other.job, "parent": {**parent, "manifest": "0" * 64}})
    ended = other.run("prepare", FINETUNE_SOURCES_DIR=str(claims))
    said = "no longer holds the adapter that revision 0a1b2c3d of FineTuneJob support has published"
    assert_failed(ended, 64, "InvalidSpec", said)
