"""Signatures that the administrator requires, in a whole ``prepare`` of each kind of part."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.support.signed_folder import required, sign
from tests.support.signing_keys import new_key
from tests.support.trainer.hub import Hub
from tests.support.trainer.stores import assert_failed
from tests.support.trainer.workshop import Workshop
from tests.trainer.conftest import MakeWorkshop

ALL = (required("hf://.*", "pvc://.*"),)


@pytest.fixture(scope="module")
def signed(
    hub: Hub, repositories: dict[str, str], done: Workshop, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Changes of a job whose base, dataset and adapter are signed. The claims are in ``folder``."""
    root = tmp_path_factory.mktemp("signed")
    for kind, name in (("model", "tiny"), ("dataset", "rows")):
        folder = shutil.copytree(hub.repos[f"{kind}s/demo/{name}"].folder, root / name)
        sign(folder)
        hub.add(kind, f"signed/{name}", folder)
    claims = root / "claims"
    adapter = shutil.copytree(done.work / "adapter", claims / "parent" / "adapter")
    (adapter / "manifest.json").unlink()
    sign(adapter)
    (claims / "rows").mkdir()
    shutil.copy(root / "rows" / "train.jsonl", claims / "rows")
    sign(claims / "rows")
    return {"folder": claims, "base": "hf://signed/tiny", "rows": "hf://signed/rows"}


@pytest.fixture
def job(make: MakeWorkshop, signed: dict[str, Any]) -> Workshop:
    return make(model={"source": signed["base"]}, dataset={"source": signed["rows"]})


def test_a_job_with_signed_sources_is_prepared(job: Workshop) -> None:
    ended = job.succeed("prepare", signatures=ALL)
    assert "model hf://signed/tiny has the signature that policy.signatures requires" in ended.log
    assert "dataset hf://signed/rows has the signature" in ended.log


def test_an_unsigned_base_is_refused_before_its_weights_are_downloaded(
    make: MakeWorkshop, hub: Hub
) -> None:
    hub.requests.clear()
    ended = make().run("prepare", signatures=(required("hf://.*", what=("model",)),))
    said = "model.source is hf://demo/tiny, which needs a signature", "it has no file model.sig"
    assert_failed(ended, 77, "SourceNotSigned", *said)
    assert not [each for each in hub.requests if each.endswith(".safetensors")]


def test_an_unsigned_dataset_is_refused(make: MakeWorkshop, signed: dict[str, Any]) -> None:
    ended = make(model={"source": signed["base"]}).run("prepare", signatures=ALL)
    assert_failed(ended, 77, "SourceNotSigned", "dataset.source is hf://demo/rows, which needs")


def test_weights_that_the_hub_changes_are_refused(job: Workshop, hub: Hub, tmp_path: Path) -> None:
    repository = hub.repos["models/signed/tiny"]
    before, folder = repository.folder, tmp_path / "tiny"
    shutil.copytree(before, folder)
    weights = max(folder.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    repository.folder = folder
    try:
        ended = job.run("prepare", signatures=ALL)
    finally:
        repository.folder = before
    said = f"{weights.name} differs from the file that was signed"
    assert_failed(ended, 77, "SourceNotSigned", said)
    assert not (job.work / "base").exists()


def test_what_an_earlier_attempt_prepared_is_verified_again(job: Workshop) -> None:
    job.succeed("prepare")
    job.succeed("prepare", signatures=ALL)
    keys = (required("hf://.*", keys=(new_key(),)),)
    ended = job.run("prepare", signatures=keys)
    assert_failed(ended, 77, "SourceNotSigned", "model.sig has no valid signature of the key")


def test_an_adapter_to_continue_from_is_verified(
    make: MakeWorkshop, signed: dict[str, Any], tmp_path: Path
) -> None:
    start = {"training": {"startFrom": {"source": "pvc://parent/adapter"}}}
    rule = (required("pvc://.*", what=("adapter",)),)
    make(**start).succeed("prepare", signatures=rule, FINETUNE_SOURCES_DIR=str(signed["folder"]))
    claims = shutil.copytree(signed["folder"], tmp_path / "claims")
    (claims / "parent" / "adapter" / "model.sig").unlink()
    ended = make(**start).run("prepare", signatures=rule, FINETUNE_SOURCES_DIR=str(claims))
    assert_failed(ended, 77, "SourceNotSigned", "training.startFrom.source is pvc://parent/adapter")


def test_rows_on_a_claim_are_verified(
    make: MakeWorkshop, signed: dict[str, Any], tmp_path: Path
) -> None:
    rule = (required("pvc://.*"),)
    job = {"dataset": {"source": "pvc://rows"}}
    make(**job).succeed("prepare", signatures=rule, FINETUNE_SOURCES_DIR=str(signed["folder"]))
    claims = shutil.copytree(signed["folder"], tmp_path / "claims")
    with (claims / "rows" / "train.jsonl").open("a") as file:
        file.write("\n")
    ended = make(**job).run("prepare", signatures=rule, FINETUNE_SOURCES_DIR=str(claims))
    assert_failed(ended, 77, "SourceNotSigned", "train.jsonl differs from the file that was signed")
