"""The text model of a multimodal base in the pinned vLLM, with the verifier of the serving pod."""

import copy
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.support import real_vllm
from tests.support.trainer import multimodal, serving_pod
from tests.support.trainer.hub import Hub
from tests.support.trainer.serving_pod import Build
from tests.trainer.conftest import MakeWorkshop

from finetune_trainer.checkpointing import manifest

pytestmark = real_vllm.MARKS

COMPUTED = {"qwen3_5": "bfloat16"}
"""Of families that vLLM 0.32 does not compute in float32: CPU GDN attention requires BF16."""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module", params=sorted(multimodal.FAMILIES.keys() - {"llama4"}))
def build(
    request: pytest.FixtureRequest,
    make: MakeWorkshop,
    hub: Hub,
    tmp_path_factory: pytest.TempPathFactory,
) -> Build:
    """The merged build of a family, made by the stages of a job."""
    family = request.param
    folder = multimodal.model(tmp_path_factory.mktemp("multimodal") / family, family)
    workshop = make(
        model={"source": hub.add("model", f"demo/{family}-to-serve", folder)},
        training={"maxSteps": 16, "lora": {"targetModules": ["all-linear"]}},
    )
    workshop.succeed("prepare", serving={"gpuMemoryUtilization": 0.9}, merges=True)
    workshop.succeed("train")
    return serving_pod.build(workshop, computed=COMPUTED.get(family, "float32"))


def test_served_text_model_is_verified(build: Build, scratch: Path) -> None:
    found = serving_pod.verified(build, scratch)
    print(f"{build.dtype}: {found.message}")
    assert found.outcome == "Verified", found


def test_text_model_with_half_of_the_adapter_is_rejected(
    build: Build, scratch: Path, tmp_path: Path
) -> None:
    """The files of the build are unchanged, so only the scores can show the fault."""
    found = serving_pod.verified(build, scratch, model=with_half_of_the_adapter(build, tmp_path))
    print(f"{build.dtype}: {found.message}")
    assert found.outcome == "Mismatch", found
    assert "the served model is not the tuned model" in found.message


def with_half_of_the_adapter(build: Build, folder: Path) -> Path:
    """Return the folder of a build that is merged from half of the adapter."""
    workshop = copy.copy(build.workshop)
    workshop.work = folder / "work"
    for name in ("base", "dataset", "adapter"):
        shutil.copytree(build.workshop.work / name, workshop.work / name)
    adapter, changed = workshop.work / "adapter", workshop.work / "changed"
    adapter.rename(changed)
    published, file = manifest.read(changed), changed / "adapter_model.safetensors"
    halved = {
        name: tensor / 2 if "lora_B" in name else tensor for name, tensor in load_file(file).items()
    }
    save_file(halved, file, {"format": "pt"})
    manifest.publish(
        changed, adapter, kind=published.kind, key=published.key, facts=published.facts
    )
    base = build.target.resolved.spec.merge.base
    workshop.succeed("merge", build=build.target.build, dtype=build.dtype, base=base)
    return workshop.work / build.folder.name
