"""All stages of a job, and their results in other libraries."""

import hashlib
import json
import shutil
import stat
from pathlib import Path

import peft
import pytest
import torch
import transformers
from tests.support.trainer import tiny
from tests.support.trainer.hub import Hub
from tests.support.trainer.logits import ids, load, logits_of_all
from tests.support.trainer.workshop import Workshop
from tests.trainer.conftest import MakeWorkshop

from finetune_api.contracts.result import Result
from finetune_trainer.checkpointing import manifest
from finetune_trainer.data.load_tokenizer import load_tokenizer
from finetune_trainer.volume.files import sha256_of


def test_each_stage_reports_its_artifacts(done: Workshop) -> None:
    prepared = done.succeed("prepare").result
    trained = done.succeed("train").result
    merged = done.succeed("merge", build="b1").result
    for each in (prepared, trained, merged):
        assert Result.model_validate(each).outcome == "completed"
    assert prepared["artifacts"]["rows"] == 24
    assert prepared["artifacts"]["plannedSteps"] == 6
    template = load_tokenizer(done.work / "base").get_chat_template()
    digest = hashlib.sha256(template.encode()).hexdigest()
    assert prepared["artifacts"]["effectiveTemplate"] == f"sha256:{digest}"
    assert "chatTemplate" not in prepared["artifacts"], "it is the template of the base model"
    assert trained["globalStep"] == trained["maxSteps"] == 6
    assert 0 < trained["loss"] < 6
    assert trained["gpuSeconds"] > 0
    adapter, model = (manifest.read(done.work / name).facts for name in ("adapter", "merged-b1"))
    assert adapter["datasetDigest"] == prepared["artifacts"]["datasetDigest"]
    assert model["adapter"] == trained["artifacts"]["adapter"]
    assert merged["artifacts"]["mergedDtype"] == "float16"
    assert "6 optimizer steps" in prepared["warnings"][0]


def test_completed_stages_are_not_repeated(done: Workshop) -> None:
    before = times(done)
    requests: dict[str, dict[str, str]] = {"prepare": {}, "train": {}, "merge": {"build": "b1"}}
    for stage, fields in requests.items():
        ended = done.succeed(stage, **fields)
        assert " already " in ended.message
    assert times(done) == before


def times(workshop: Workshop) -> dict[str, int]:
    files = (path for path in workshop.work.rglob("*") if path.is_file())
    return {str(path): path.stat().st_mtime_ns for path in files if path.name != "lock.json"}


def test_published_folders_are_complete_and_readable(done: Workshop) -> None:
    assert done.published() == ["adapter", "base", "dataset", "merged-b1", "reference"]
    assert not list(done.work.glob(".*"))
    for name in done.published():
        folder = done.work / name
        found = manifest.read(folder)
        manifest.verify(folder, kind=found.kind, key=None)
        on_disk = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
        assert on_disk == {entry.name for entry in found.files} | {manifest.FILE}
        for path in folder.rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644)


def test_adapter_loads_with_peft(done: Workshop) -> None:
    folder = done.work / "adapter"
    config = peft.PeftConfig.from_pretrained(folder)
    commit = manifest.read(done.work / "base").facts["baseCommit"]
    assert (config.base_model_name_or_path, config.revision) == ("demo/tiny", commit)
    base = load(done.work / "base", dtype=torch.float32)
    plain = base(ids(done)).logits
    tuned = peft.PeftModel.from_pretrained(base, folder)
    assert all(p.dtype == torch.float32 for n, p in tuned.named_parameters() if "lora" in n)
    assert (tuned(ids(done)).logits - plain).abs().max() > 0.01
    assert str(done.work) not in (folder / "adapter_config.json").read_text()


def test_merged_model_has_the_logits_of_the_trained_model(done: Workshop) -> None:
    untuned, trained, merged = logits_of_all(done, "b1")
    # The remaining difference is the rounding to float16.
    assert (merged - trained).abs().max() < 0.01
    assert (merged - untuned).abs().max() > 0.1


def test_merged_model_has_tokenizer_and_configuration_of_the_base(done: Workshop) -> None:
    base, merged = done.work / "base", done.work / "merged-b1"
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (merged / name).read_bytes() == (base / name).read_bytes()
    before = json.loads((base / "config.json").read_text())
    after = json.loads((merged / "config.json").read_text())
    assert before.pop("dtype") == "bfloat16"
    assert after.pop("dtype") == "float16"
    assert after == before


def test_prompt_format_replaces_the_template_of_the_base(
    make: MakeWorkshop, hub: Hub, tmp_path: Path
) -> None:
    folder = tiny.model(tmp_path / "base")
    # Bases from before transformers 4.51 store the template in this file.
    file, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    document = json.loads(config.read_text()) | {"chat_template": file.read_text()}
    config.write_text(json.dumps(document))
    file.unlink()
    workshop = make(
        model={"source": hub.add("model", "demo/older", folder)},
        dataset={"promptFormat": "Q: {prompt} A:"},
        training={"maxSteps": 1},
    )
    workshop.prepare_and_train()
    workshop.succeed("merge", build="b1")
    merged = workshop.work / "merged-b1"
    assert (merged / config.name).read_bytes() == config.read_bytes()
    tokenizer = transformers.AutoTokenizer.from_pretrained(merged)
    asked = [{"role": "user", "content": "Capital of France (0)?"}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    assert tokenizer.decode(prompt) == "Q: Capital of France (0)? A:"
    assert prompt == ids(workshop)[0, : len(prompt)].tolist()


@pytest.mark.parametrize(
    ("base", "prompt_template", "start"),
    [("plain", "auto", "<s>Below"), ("chat", "alpaca", "Below")],
)
def test_alpaca_prompt_is_stored_as_chat_template(
    make: MakeWorkshop, repositories: dict[str, str], base: str, prompt_template: str, start: str
) -> None:
    workshop = make(
        model={"source": repositories[base]},
        dataset={"promptTemplate": prompt_template},
        training={"maxSteps": 1, "sequenceLength": 256},
    )
    workshop.prepare_and_train()
    workshop.succeed("merge", build="b1")
    tokenizer = transformers.AutoTokenizer.from_pretrained(workshop.work / "merged-b1")
    asked = [{"role": "user", "content": "Capital of France (0)?"}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    assert prompt == ids(workshop)[0, : len(prompt)].tolist()
    text = tokenizer.decode(prompt)
    assert text.startswith(f"{start} is an instruction that describes a task. Write")
    assert text.endswith("### Instruction:\nCapital of France (0)?\n\n### Response:\n")


@pytest.mark.parametrize("damaged", ["adapter", "base", "merged-b1"])
def test_damaged_folder_is_not_a_result(
    done: Workshop, make: MakeWorkshop, tmp_path: Path, damaged: str
) -> None:
    workshop = make(work=shutil.copytree(done.work, tmp_path / "work"))
    first = workshop.succeed("merge", build="b1").result
    victim = next((workshop.work / damaged).glob("*.safetensors"))
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    again = workshop.run("merge", build="b1")
    if damaged == "merged-b1":
        assert again.result["artifacts"] == first["artifacts"]
        assert "already" not in again.message
    else:
        # The merged model exists already; a new build must not use damaged inputs.
        assert again.code == 0
        other = workshop.run("merge", build="b2")
        assert (other.code, other.result["reason"]) == (78, "ResumeRefused")
        assert victim.name in other.message
        assert "merged-b2" not in workshop.published()


def manifests(workshop: Workshop, *folders: str) -> dict[str, str]:
    """Return the digests of published folders, as the operator requests them."""
    return {
        f"{folder}_manifest": sha256_of(workshop.work / folder / manifest.FILE)
        for folder in folders
    }


def test_stages_accept_only_the_folders_of_the_ledger(make: MakeWorkshop, tmp_path: Path) -> None:
    workshop = make(training={"maxSteps": 1})
    prepared = workshop.succeed("prepare").result["artifacts"]
    ledger = manifests(workshop, "base", "dataset")
    assert list(ledger.values()) == [prepared["baseManifest"], prepared["datasetManifest"]]
    # A tenant replaces the base by another one, with a correct manifest.
    base, found = workshop.work / "base", manifest.read(workshop.work / "base")
    shutil.copytree(base, tmp_path / "kept")
    scratch = tmp_path / "scratch"
    shutil.copytree(base, scratch)
    victim = min(scratch.glob("*.safetensors"))
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    manifest.publish(scratch, base, kind=found.kind, key=found.key, facts=found.facts)
    refused = workshop.run("train", **ledger)
    assert (refused.code, refused.result["reason"]) == (78, "ResumeRefused")
    assert "base/ is not the folder that was published" in refused.message
    # Or only the weights: that is found while they are in use.
    shutil.copy(tmp_path / "kept" / manifest.FILE, base / manifest.FILE)
    refused = workshop.run("train", **ledger)
    assert (refused.code, refused.result["reason"]) == (78, "ResumeRefused")
    assert f"base/{victim.name} has changed since it was published" in refused.message
    assert "adapter" not in workshop.published()
    assert not list(workshop.work.glob("checkpoints/*"))
    shutil.rmtree(base)
    shutil.copytree(tmp_path / "kept", base)
    images = {"prepare": "trainer@sha256:1"}
    trained = workshop.succeed("train", **ledger, images=images).result["artifacts"]
    card = (workshop.work / "adapter" / "README.md").read_text()
    assert "| image of the prepare stage | `trainer@sha256:1` |" in card
    known = manifests(workshop, "base", "adapter")
    assert known["adapter_manifest"] == trained["adapterManifest"]
    assert trained["referenceManifest"] == sha256_of(workshop.work / "reference" / manifest.FILE)
    (workshop.work / "adapter" / "adapter_config.json").write_text("{}")
    refused = workshop.run("merge", build="b1", base_manifest=known["base_manifest"])
    assert (refused.code, refused.result["reason"]) == (78, "ResumeRefused")
    refused = workshop.run("merge", build="b1", **{**known, "adapter_manifest": "0" * 64})
    assert "adapter/ is not the folder that was published" in refused.message
