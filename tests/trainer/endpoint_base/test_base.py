"""The base of a shared endpoint has the weights against which a training computed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.trainer import tiny
from tests.support.trainer.hub import Hub
from tests.support.trainer.workshop import Ended, Running, Server, Workshop, command

from finetune_api.contracts.endpoint import (
    BASE_FILES_FACT,
    BASE_SCALES,
    codes_digest,
    source_digest,
)
from finetune_trainer.checkpointing import manifest, published
from finetune_trainer.quantization.quant_state import DequantizedBase

Start = Callable[..., Running]
Make = Callable[..., Ended]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Return the claim of an endpoint."""
    return tmp_path / "claim"


@pytest.fixture
def start(servers: dict[str, Server], work: Path, tmp_path: Path) -> Start:
    """Return a function that starts to make the base; arguments change the request."""

    def started(source: str = "hf://demo/tiny", **fields: Any) -> Running:
        document = {
            "contract": 2,
            "stage": "base",
            "work": str(work),
            "model": {"source": source},
            "quantizedBy": "cpu",
            "dtype": "bfloat16",
            **fields,
        }
        work.mkdir(exist_ok=True)
        environment = {
            "FINETUNE_TERMINATION_LOG": str(tmp_path / "result"),
            "FINETUNE_METRICS_PORT": "off",
        }
        (tmp_path / "log").touch()
        (tmp_path / "result").unlink(missing_ok=True)
        process = servers["trl"].start(
            command, [json.dumps(document)], environment, str(tmp_path / "log")
        )
        return Running(process=process, folder=tmp_path)

    return started


@pytest.fixture
def run(start: Start) -> Make:
    """Return a function that makes the base."""
    return lambda *source, **fields: start(*source, **fields).wait()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        found |= load_file(shard)
    return found


def succeeded(ended: Ended) -> dict[str, Any]:
    assert ended.code == 0, f"{ended.result}\n{ended.log}"
    artifacts: dict[str, Any] = ended.result["artifacts"]
    return artifacts


def test_the_base_has_the_weights_of_a_training(done: Workshop, run: Make, work: Path) -> None:
    artifacts = succeeded(run())
    base, adapter = manifest.read(work / "base"), manifest.read(done.work / "adapter")
    assert artifacts["manifest"] == base.sha256
    assert artifacts["source"] == source_digest(adapter.facts[BASE_FILES_FACT])
    assert artifacts["codes"] == codes_digest(adapter.facts["quantizedModules"])
    for fact in (BASE_FILES_FACT, "baseCommit", "quantizedModules", "quantization"):
        assert base.facts[fact] == adapter.facts[fact], fact
    original, found = weights(done.work / "base"), weights(work / "base")
    trained = DequantizedBase(adapter, done.work / "adapter")
    assert found.keys() == original.keys()
    changed = 0
    for name, weight in original.items():
        expected = trained.weight(name, weight) if trained.covers(name) else weight
        assert torch.equal(found[name], expected.to(torch.bfloat16)), name
        changed += not torch.equal(found[name], weight)
    assert changed == len(adapter.facts["quantizedModules"])


def test_the_scales_are_those_of_a_training_on_the_same_device(
    done: Workshop, run: Make, work: Path
) -> None:
    succeeded(run())
    ours = load_file(shutil.copy(work / "base" / BASE_SCALES, work / "copy.safetensors"))
    theirs = load_file(done.work / "adapter" / published.QUANTIZATION)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_what_the_endpoint_needs_to_know(run: Make, work: Path) -> None:
    artifacts = succeeded(run())
    assert artifacts["modules"] == [
        "down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj",
    ]  # fmt: skip
    assert artifacts["dtype"] == "bfloat16"
    assert json.loads((work / "base" / "config.json").read_text())["dtype"] == "bfloat16"
    # Nothing of the published base stays.
    assert {path.name for path in work.iterdir()} == {"base", "lock.json"}
    names = {path.name for path in (work / "base").glob("*.safetensors")}
    assert all(name.startswith("model-") for name in names), "vLLM loads each safetensors file"


def test_a_finished_base_is_not_made_again(run: Make, work: Path, hub: Hub) -> None:
    first = succeeded(run())
    hub.requests.clear()
    again = run()
    assert succeeded(again) == first
    assert "already made" in again.message
    assert not hub.requests


def test_a_killed_process_is_continued_with_the_same_bytes(
    run: Make, start: Start, work: Path
) -> None:
    first = succeeded(run())
    whole = {path.name: path.read_bytes() for path in (work / "base").iterdir()}
    manifest.withdraw(work / "base")
    killed = start()
    record = work / ".merging-base.json"
    killed.until(record.exists)
    killed.process.kill()
    killed.process.join()
    assert not (work / "base").exists()
    shard = next(iter(json.loads(record.read_text())["shards"]))
    written = (work / ".writing-base" / shard).stat().st_mtime_ns
    assert succeeded(run()) == first
    assert {path.name: path.read_bytes() for path in (work / "base").iterdir()} == whole
    assert (work / "base" / shard).stat().st_mtime_ns == written, "the shard was written again"


def test_an_original_base_has_the_published_files(run: Make, work: Path, hub: Hub) -> None:
    artifacts = succeeded(run(base="original"))
    folder = hub.repos["models/demo/tiny"].folder
    found = manifest.read(work / "base", sha256=artifacts["manifest"])
    assert "quantizedModules" not in found.facts
    assert "codes" not in artifacts
    for entry in found.files:
        assert (work / "base" / entry.name).read_bytes() == (folder / entry.name).read_bytes()


@pytest.mark.parametrize("dtype", ["auto", "float16"])
def test_the_number_format(run: Make, work: Path, dtype: str) -> None:
    assert succeeded(run(dtype=dtype))["dtype"] == "float16"
    assert {each.dtype for each in weights(work / "base").values()} == {torch.float16}


def test_a_tied_head_stays_in_16_bits(run: Make, work: Path, hub: Hub, tmp_path: Path) -> None:
    source = hub.add("model", "demo/tied", tiny.model(tmp_path / "tied", tied=True))
    succeeded(run(source))
    facts = manifest.read(work / "base").facts
    assert not any("embed" in name or "lm_head" in name for name in facts["quantizedModules"])
    found = weights(work / "base")["model.embed_tokens.weight"]
    assert torch.equal(found, weights(tmp_path / "tied")["model.embed_tokens.weight"])


def test_a_missing_model(run: Make, work: Path) -> None:
    ended = run("hf://demo/missing")
    assert (ended.code, ended.result["reason"]) == (66, "ModelNotFound"), ended.log
    assert ended.result["stage"] == "base"


def test_an_endpoint_that_does_not_fit_its_gpu_is_refused_before_the_download(
    run: Make, work: Path, hub: Hub, tmp_path: Path
) -> None:
    source = hub.add("model", "demo/small", tiny.model(tmp_path / "small"))
    settings = {"maxAdapters": 8, "maxRank": 16, "maxModelLen": 1_048_576}
    small = "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb"
    cards = ["NVIDIA-H200", small, "a GPU that is not in the table"]
    ended = run(source, cards=cards, endpoint={**settings, "gpuMemoryUtilization": 0.1})
    assert (ended.code, ended.result["reason"]) == (82, "DoesNotFit")
    assert f"({small} has 4.50 GiB): set (1)" in ended.result["message"], ended.result
    assert not list(work.rglob("*.safetensors"))
