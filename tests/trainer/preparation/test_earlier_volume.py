"""The prepare stage on the volume of an earlier FineTuneJob, whose files anybody may have made."""

import json
import shutil
from pathlib import Path

import pytest
from tests.support.trainer.hub import Hub
from tests.support.trainer.workshop import Workshop
from tests.trainer.conftest import MakeWorkshop

from finetune_trainer.checkpointing import manifest
from finetune_trainer.data.token_store import TRAIN
from finetune_trainer.volume.files import sha256_of

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def fetched(hub: Hub) -> set[str]:
    """Return the files of the base that were requested from the hub."""
    return {each.split("/")[-1] for each in hub.requests if "GET demo/tiny" in each}


def digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in folder.iterdir() if path.is_file()}


def publish_again(folder: Path) -> None:
    """Write a manifest that matches the files, as the trainer and every attacker can."""
    present = manifest.read(folder)
    scratch = folder.with_name(".writing-attack")
    folder.rename(scratch)
    manifest.publish(scratch, folder, kind=present.kind, key=present.key, facts=present.facts)


def plant(workshop: Workshop) -> None:
    """Change the base and the dataset, and add results, each with a manifest that matches."""
    work = workshop.work
    shard = work / "base" / SECOND
    content = shard.read_bytes()
    shard.write_bytes(content[:-64] + bytes(64))
    (work / "base" / "chat_template.jinja").write_text("{{ messages }} planted")
    publish_again(work / "base")
    rows = max((work / "dataset").glob(f"{TRAIN}*"), key=lambda path: path.stat().st_size)
    rows.write_bytes(rows.read_bytes()[::-1])
    publish_again(work / "dataset")
    for name in ("checkpoints/step-2", "adapter", "reference", "merged-11111111"):
        shutil.copytree(work / "base", work / name)
    (work / "usage.json").write_text(json.dumps({"gpuSeconds": 1e9}))


@pytest.fixture
def earlier(make: MakeWorkshop) -> Workshop:
    workshop = make()
    workshop.succeed("prepare")
    return workshop


def test_planted_files_are_not_used(earlier: Workshop, hub: Hub) -> None:
    before = {name: digests(earlier.work / name) for name in ("base", "dataset")}
    rows = manifest.read(earlier.work / "dataset").digest
    plant(earlier)
    hub.requests.clear()
    ended = earlier.succeed("prepare", untrusted_volume=True)
    assert SECOND in fetched(hub)
    assert FIRST not in fetched(hub)
    assert "reused 1 files of model demo/tiny" in ended.log
    base = digests(earlier.work / "base")
    assert base.keys() == before["base"].keys()
    for name in base.keys() - {manifest.FILE}:
        assert base[name] == before["base"][name], name
    assert manifest.read(earlier.work / "dataset").digest == rows
    assert {path.name for path in earlier.work.iterdir()} == {"base", "dataset", "lock.json"}


def test_without_the_option_a_manifest_on_the_volume_is_trusted(earlier: Workshop) -> None:
    """The ledger vouches for the volume of the job itself; this shows what the option prevents."""
    plant(earlier)
    assert "are already prepared" in earlier.succeed("prepare").message
    assert (earlier.work / "checkpoints").exists()


def test_an_intact_base_is_not_downloaded_again(earlier: Workshop, hub: Hub) -> None:
    hub.requests.clear()
    earlier.succeed("prepare", untrusted_volume=True)
    assert fetched(hub).isdisjoint({FIRST, SECOND})
    assert "config.json" in fetched(hub)
    hub.requests.clear()
    earlier.succeed("prepare", untrusted_volume=True)
    assert fetched(hub).isdisjoint({FIRST, SECOND})


def test_nothing_is_deleted_before_the_sources_are_known(earlier: Workshop, hub: Hub) -> None:
    plant(earlier)
    hub.refusing = 503
    try:
        ended = earlier.run("prepare", untrusted_volume=True)
    finally:
        hub.refusing = 0
    assert (ended.code, ended.result["reason"]) == (75, "Transient")
    assert (earlier.work / "checkpoints").exists()
    earlier.succeed("prepare", untrusted_volume=True)
    assert not (earlier.work / "checkpoints").exists()


def test_a_source_without_digests_is_read_again(
    make: MakeWorkshop, hub: Hub, tmp_path: Path
) -> None:
    folder = tmp_path / "claims" / "models" / "tiny"
    shutil.copytree(hub.repos["models/demo/tiny"].folder, folder)
    sources = {"FINETUNE_SOURCES_DIR": str(tmp_path / "claims")}
    workshop = make(model={"source": "pvc://models/tiny"})
    assert workshop.run("prepare", **sources).code == 0
    plant(workshop)
    ended = workshop.run("prepare", untrusted_volume=True, **sources)
    assert ended.code == 0, ended.log
    assert "reused 0 files" in ended.log
    assert sha256_of(workshop.work / "base" / SECOND) == sha256_of(folder / SECOND)
