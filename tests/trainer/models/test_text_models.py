"""The text model of a multimodal base: prepared, trained and merged under its own names."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.trainer import multimodal, tiny
from tests.support.trainer.hub import Hub
from tests.support.trainer.logits import logits_of_all
from tests.support.trainer.workshop import Workshop
from tests.support.variants import variants
from tests.trainer.conftest import MakeWorkshop
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from finetune_trainer.checkpointing import manifest

ALL: dict[str, Any] = {"targetModules": ["all-linear"]}
SHARDS = {"mistral3": "60KB"}
"""The largest shards by family. Some contain only parts for images."""
SCALING = 2.0


@pytest.fixture(scope="module")
def bases(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("multimodal")
    return {
        family: hub.add(
            "model",
            f"demo/{family}",
            multimodal.model(root / family, family, shard=SHARDS.get(family, "10GB")),
        )
        for family in multimodal.FAMILIES
    }


def published_model(workshop: Workshop) -> Any:
    return AutoModelForImageTextToText.from_pretrained(
        workshop.work / "base", dtype=torch.float32
    ).eval()


def tuned(workshop: Workshop) -> Any:
    """Return the published model with the adapter in its weights, as transformers loads it."""
    published = published_model(workshop)
    decoder = published.get_decoder()
    decoder = getattr(decoder, "model", decoder)
    adapter = load_file(workshop.work / "adapter" / "adapter_model.safetensors")
    for name, a in adapter.items():
        if not name.endswith(".lora_A.weight"):
            continue
        module = name.removeprefix("base_model.model.model.").removesuffix(".lora_A.weight")
        weight = decoder.get_submodule(module).weight
        weight.data += SCALING * adapter[name.replace("lora_A", "lora_B")] @ a
    return published


def scores(model: Any, ids: list[int], positions: list[int]) -> list[float]:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return [logits[at - 1, ids[at]].item() for at in positions]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for shard in sorted(folder.glob("model*.safetensors")):
        found |= load_file(shard)
    return found


@pytest.mark.parametrize(
    "family", variants(sorted(multimodal.FAMILIES.keys() - {"llama4"}), kept=SHARDS)
)
def test_text_model_is_trained_verified_and_merged(
    make: MakeWorkshop, bases: dict[str, str], family: str
) -> None:
    workshop = make(
        model={"source": bases[family]},
        training={"maxSteps": 4, "lora": ALL},
    )
    workshop.prepare_and_train()
    workshop.succeed("merge", build="b", dtype="bfloat16", base="original")
    folder = workshop.work / "merged-b"
    merged, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values())
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == [type(merged).__name__]
    assert "vision_config" not in config
    names = tensors(folder).keys()
    assert names <= merged.state_dict().keys()
    index = folder / "model.safetensors.index.json"
    if family in SHARDS:
        assert json.loads(index.read_text())["weight_map"].keys() == names
    expected = tuned(workshop)
    reference = json.loads((workshop.work / "reference" / "reference.json").read_text())
    for row in reference["rows"][:3]:
        positions = [at for start, end in row["spans"] for at in range(start, end)]
        exact = scores(expected, row["ids"], positions)
        assert row["original"]["tuned"] == pytest.approx(exact, abs=1e-3)
        assert scores(merged.eval(), row["ids"], positions) == pytest.approx(exact, abs=0.05)
        assert row["original"]["base"] != pytest.approx(exact, abs=0.1)


def test_reference_has_the_scores_of_quantized_modules_outside_the_decoder_layers(
    make: MakeWorkshop, bases: dict[str, str]
) -> None:
    """Gemma 4 projects the inputs of all layers in a module beside them."""
    workshop = make(model={"source": bases["gemma4"]}, training={"maxSteps": 4, "lora": ALL})
    workshop.prepare_and_train()
    workshop.succeed("merge", build="b", dtype="float16", base="dequantized")
    outside = "model.per_layer_model_projection"
    assert outside in manifest.read(workshop.work / "adapter").facts["quantizedModules"]
    merged = AutoModelForCausalLM.from_pretrained(
        workshop.work / "merged-b", dtype=torch.float32
    ).eval()
    base = published_model(workshop)
    reference = json.loads((workshop.work / "reference" / "reference.json").read_text())
    for row in reference["rows"][:3]:
        positions = [at for start, end in row["spans"] for at in range(start, end)]
        exact = scores(merged, row["ids"], positions)
        assert row["dequantized"]["tuned"] == pytest.approx(exact, abs=5e-3)
        assert row["dequantized"]["rounded"] == pytest.approx(exact, abs=0.05)
        exact = scores(base, row["ids"], positions)
        assert row["original"]["base"] == pytest.approx(exact, abs=0.05)


def refused(make: MakeWorkshop, source: str, *, adapter: bool = False, **training: Any) -> str:
    """Return the message of prepare. adapter: whether the adapter is served, unmerged."""
    serves: dict[str, Any] = (
        {"serving": {"gpuMemoryUtilization": 0.9}, "merges": False} if adapter else {}
    )
    ended = make(model={"source": source}, training=training).run("prepare", **serves)
    assert (ended.code, ended.result["reason"]) == (64, "InvalidSpec"), ended.log
    return ended.message


def test_prepare_refuses_weights_without_a_part_of_the_text_model(
    make: MakeWorkshop, hub: Hub, tmp_path: Path
) -> None:
    folder = multimodal.model(tmp_path / "base", "gemma3")
    found = load_file(folder / "model.safetensors")
    del found["language_model.model.layers.1.mlp.up_proj.weight"]
    save_file(found, folder / "model.safetensors", {"format": "pt"})
    message = refused(make, hub.add("model", "demo/incomplete", folder))
    assert "the weights lack model.layers.1.mlp.up_proj.weight" in message


def test_prepare_refuses_modules_of_other_parts(make: MakeWorkshop, bases: dict[str, str]) -> None:
    message = refused(make, bases["gemma3"], lora={"targetModules": ["fc1"]})
    assert "contains fc1, which model demo/gemma3 does not have" in message
    assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj:" in message


def test_prepare_refuses_a_model_whose_layers_the_libraries_do_not_find(
    make: MakeWorkshop, bases: dict[str, str]
) -> None:
    message = refused(make, bases["llama4"])
    assert message == (
        "the base model is of family llama4_text, which cannot be trained: transformers does not "
        "name its decoder. Choose another base model"
    )


def test_prepare_refuses_text_models_that_vllm_cannot_serve(
    make: MakeWorkshop, bases: dict[str, str]
) -> None:
    message = refused(make, bases["gemma3"], adapter=True)
    assert "the base is of the multimodal family gemma3" in message
    assert message.endswith("set serving.mode to merged")
    message = refused(make, bases["gemma3"], advanced={"backend": "unsloth"})
    assert "Unsloth does not load the text model of a multimodal base alone" in message


def test_adapter_of_a_whole_multimodal_model_is_merged_into_the_whole(
    make: MakeWorkshop, bases: dict[str, str]
) -> None:
    """Earlier versions trained bases whose files have the names of the whole model as a whole."""
    workshop = make(model={"source": bases["gemma4"]}, training={"maxSteps": 3, "lora": ALL})
    workshop.prepare_and_train()
    adapter, scratch = workshop.work / "adapter", workshop.work / "changed"
    shutil.copytree(adapter, scratch)
    found = manifest.read(scratch)
    whole = {
        name.replace(".model.model.", ".model.model.language_model."): tensor
        for name, tensor in load_file(scratch / "adapter_model.safetensors").items()
    }
    save_file(whole, scratch / "adapter_model.safetensors")
    facts = dict(found.facts)
    del facts["textModel"]
    shutil.rmtree(adapter)
    manifest.publish(scratch, adapter, kind=found.kind, key=found.key, facts=facts)
    workshop.succeed("merge", build="b", dtype="bfloat16", base="original")
    base, merged = tensors(workshop.work / "base"), tensors(workshop.work / "merged-b")
    assert merged.keys() == base.keys()
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert len(changed) == len(whole) // 2
    assert (workshop.work / "merged-b" / "config.json").read_text() == (
        workshop.work / "base" / "config.json"
    ).read_text()


def test_files_without_the_usual_prefix_are_merged_under_their_names(
    make: MakeWorkshop, hub: Hub, tmp_path: Path
) -> None:
    """The library adds the prefix as it loads them."""
    folder = tiny.model(tmp_path / "base", shard="10GB")
    found = load_file(folder / "model.safetensors")
    plain = {name.removeprefix("model."): tensor for name, tensor in found.items()}
    save_file(plain, folder / "model.safetensors", {"format": "pt"})
    workshop = make(
        model={"source": hub.add("model", "demo/plain-names", folder)}, training={"maxSteps": 3}
    )
    trained = workshop.prepare_and_train()
    assert trained.result["artifacts"]["referenceManifest"]
    workshop.succeed("merge", build="b")
    assert tensors(workshop.work / "merged-b").keys() == plain.keys()
    untuned, tuned_logits, merged = logits_of_all(workshop, "b")
    assert (merged - tuned_logits).abs().max() < 0.05
    assert (merged - untuned).abs().max() > 0.05
