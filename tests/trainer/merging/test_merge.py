"""The merge reproduces the arithmetic of PEFT and bitsandbytes bit for bit."""

import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from bitsandbytes.functional import dequantize_4bit, get_4bit_type, quantize_4bit
from bitsandbytes.nn import Linear4bit
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.support.trainer import tiny
from tests.support.trainer.faults import WrongSums
from tests.support.trainer.hub import Hub
from tests.support.trainer.logits import logits_of_all
from tests.support.trainer.workshop import Workshop
from tests.trainer.conftest import MakeWorkshop

from finetune_trainer.checkpointing import adapter_files, manifest
from finetune_trainer.checkpointing.safetensors_header import read_header
from finetune_trainer.errors import NotMergeable
from finetune_trainer.merging import lora_delta, merged_config
from finetune_trainer.quantization import nf4
from finetune_trainer.quantization.quant_state import DequantizedBase

KINDS = {
    "lora": {},
    "rslora": {"useRslora": True, "r": 4, "alpha": 6},
    "dora": {"useDora": True},
    "in full": {"modulesToSave": ["lm_head", "embed_tokens"]},
}


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest, make: MakeWorkshop) -> Workshop:
    workshop = make(training={"maxSteps": 3, "lora": KINDS[request.param]})
    workshop.prepare_and_train()
    return workshop


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for shard in sorted(folder.glob("model*.safetensors")):
        found |= load_file(shard)
    return found


def read_tensor(path: Path, name: str) -> torch.Tensor:
    with safe_open(path, framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(name)
    return tensor


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        # Comparing numbers is not sufficient, because -0.0 equals 0.0.
        assert torch.equal(bits(found[name]), bits(tensor)), name


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_original_merge_equals_peft(trained: Workshop, dtype: str) -> None:
    trained.succeed("merge", build=dtype, dtype=dtype, base="original")
    # The result is rounded once, because PEFT gets the base in float32.
    base = transformers.AutoModelForCausalLM.from_pretrained(
        trained.work / "base", dtype=torch.float32
    )
    theirs = peft.PeftModel.from_pretrained(base, trained.work / "adapter").merge_and_unload()
    expected = theirs.to(getattr(torch, dtype)).state_dict()
    same(weights(trained.work / f"merged-{dtype}"), dict(expected))


def test_original_merge_in_the_base_dtype_equals_peft(trained: Workshop) -> None:
    trained.succeed("merge", build="own", dtype="bfloat16", base="original")
    base = transformers.AutoModelForCausalLM.from_pretrained(
        trained.work / "base", dtype=torch.bfloat16
    )
    theirs = peft.PeftModel.from_pretrained(base, trained.work / "adapter").merge_and_unload()
    same(weights(trained.work / "merged-own"), dict(theirs.state_dict()))


def test_dequantized_merge_gives_the_logits_of_the_trained_model(trained: Workshop) -> None:
    trained.succeed("merge", build="served")
    untuned, tuned, merged = logits_of_all(trained, "served")
    assert (merged - tuned).abs().max() < 0.01
    assert (merged - untuned).abs().max() > 0.05


@pytest.mark.parametrize(
    "quantization",
    [
        {},
        {"type": "fp4"},
        {"doubleQuant": False},
        {"computeDtype": "float32"},
        {"computeDtype": "float16"},
    ],
    ids=str,
)
def test_dequantized_merge_equals_dequantized_base_plus_adapter(
    make: MakeWorkshop, quantization: dict[str, Any]
) -> None:
    workshop = make(training={"maxSteps": 2, "advanced": {"quantization": quantization}})
    workshop.prepare_and_train()
    workshop.succeed("merge", build="b", dtype="bfloat16")
    full: dict[str, Any] = {
        "type": "nf4",
        "doubleQuant": True,
        "computeDtype": "bfloat16",
    } | quantization
    compute = getattr(torch, full["computeDtype"])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        workshop.work / "base",
        dtype=compute,
        quantization_config=transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=full["type"],
            bnb_4bit_use_double_quant=full["doubleQuant"],
            bnb_4bit_compute_dtype=compute,
        ),
    )
    expected = weights(workshop.work / "base")
    adapter = load_file(workshop.work / "adapter" / "adapter_model.safetensors")
    rounded = 0
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
            prefix = f"base_model.model.{name}"
            a, b = adapter[f"{prefix}.lora_A.weight"], adapter[f"{prefix}.lora_B.weight"]
            expected[f"{name}.weight"] = ((b @ a) * 2.0 + weight).to(torch.bfloat16)
            rounded += 1
    assert rounded == 14
    same(weights(workshop.work / "merged-b"), expected)


def test_only_quantized_tensors_are_dequantized(done: Workshop) -> None:
    base, merged = weights(done.work / "base"), weights(done.work / "merged-b1")
    for name in ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"):
        assert torch.equal(merged[name], base[name].to(torch.float16)), name


@pytest.mark.parametrize(("dtype", "shard"), [("float32", "120KB"), ("float16", "10GB")])
def test_base_with_tied_embeddings_by_dtype_and_shard_count(
    make: MakeWorkshop, hub: Hub, tmp_path: Path, dtype: str, shard: str
) -> None:
    folder = tiny.model(tmp_path / "base", dtype=dtype, tied=True, shard=shard)
    assert (folder / "model.safetensors").exists() == (shard == "10GB")
    workshop = make(
        model={"source": hub.add("model", f"demo/tied-{dtype}", folder)},
        training={"maxSteps": 2, "lora": {"targetModules": ["all-linear"]}},
    )
    workshop.prepare_and_train()
    ended = workshop.succeed("merge", build="b", base="original")
    assert ended.message == "merged 14 adapter pairs"
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, workshop.work / "adapter").merge_and_unload()
    expected = dict(theirs.half().state_dict())
    del expected["lm_head.weight"]
    same(weights(workshop.work / "merged-b"), expected)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(workshop.work / "merged-b")
    assert loaded.lm_head.weight.data_ptr() == loaded.model.embed_tokens.weight.data_ptr()
    assert loaded.dtype == torch.float16


def test_float16_overflow_names_the_tensor(make: MakeWorkshop, hub: Hub, tmp_path: Path) -> None:
    folder = tiny.model(tmp_path / "base", shard="10GB")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][7, 7] = 1e5
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    workshop = make(
        model={"source": hub.add("model", "demo/large", folder)}, training={"maxSteps": 1}
    )
    workshop.prepare_and_train()
    ended = workshop.run("merge", build="b")
    assert (ended.code, ended.result["reason"]) == (84, "NotMergeable")
    assert "model.embed_tokens.weight has the value" in ended.message
    assert "set merge.dtype to bfloat16" in ended.message
    assert "merged-b" not in workshop.published()
    assert workshop.succeed("merge", build="b", dtype="bfloat16")


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_adapter(workshop: Workshop, change: str) -> None:
    """Replace the trained adapter by a changed one, with a valid manifest."""
    scratch = workshop.work / "changed"
    shutil.copytree(workshop.work / "adapter", scratch)
    found = manifest.read(scratch)
    tensors = load_file(scratch / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"
    if change == "half a pair":
        del tensors[name]
    elif change == "another shape":
        tensors[name] = tensors[name][:, :-1].contiguous()
    elif change == "an unknown layer":
        for part in ("A", "B"):
            own = name.replace("lora_A", f"lora_{part}")
            tensors[own.replace("layers.1", "layers.9")] = tensors.pop(own)
    elif change == "another rank":
        for part, axis in (("A", 0), ("B", 1)):
            own = name.replace("lora_A", f"lora_{part}")
            tensors[own] = tensors[own].narrow(axis, 0, 3).contiguous()
    elif change == "another kind":
        configure(scratch, peft_type="LOHA")
    elif change == "empty":
        tensors.clear()
    elif change.startswith("in full"):
        configure(scratch, modules_to_save=["lm_head", "up_proj", "other"])
        target, size = {
            "in full, another size": ("lm_head.weight", (319, 64)),
            "in full, not there": ("other.weight", (320, 64)),
            "in full, and a pair": ("model.layers.1.mlp.up_proj.weight", (128, 64)),
        }[change]
        tensors[f"base_model.model.{target}"] = torch.zeros(size)
    elif change == "no LoRA":
        tensors["base_model.model.lm_head.weight"] = tensors[name].clone()
    elif change == "another magnitude":
        publish_adapter(workshop, peft.LoraConfig(target_modules="all-linear", use_dora=True))
        shutil.copytree(workshop.work / "adapter", scratch, dirs_exist_ok=True)
        tensors = load_file(scratch / "adapter_model.safetensors")
        start = name.replace("lora_A.weight", "lora_magnitude_vector")
        own = next(each for each in tensors if each.startswith(start))
        tensors[own] = tensors[own][:-1].contiguous()
    elif change == "not finite":
        tensors[name][0, 0] = float("nan")
    save_file(tensors, scratch / "adapter_model.safetensors")
    manifest.publish(
        scratch, workshop.work / "adapter", kind=found.kind, key=found.key, facts=found.facts
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("half a pair", "all LoRA tensors for model.layers.1.mlp.up_proj.weight (missing: "),
        (
            "another shape",
            "A and B for model.layers.1.mlp.up_proj.weight have the shapes (16, 63)",
        ),
        (
            "an unknown layer",
            "changes model.layers.9.mlp.up_proj.weight, but the files of the base model contain no",
        ),
        (
            "another rank",
            "LoRA matrices for model.layers.1.mlp.up_proj.weight have rank 3, but adapter_config",
        ),
        ("another kind", "the adapter has peft_type LOHA, but only LORA can be merged"),
        ("empty", "the adapter contains neither LoRA matrices nor fully trained modules"),
        ("in full, another size", "replaces lm_head.weight with shape (319, 64), but the base"),
        ("in full, not there", "replaces other.weight, but the files of the base model contain"),
        (
            "in full, and a pair",
            "replaces model.layers.1.mlp.up_proj.weight, but it also has LoRA matrices",
        ),
        ("no LoRA", "contains base_model.model.lm_head.weight, which is neither a LoRA matrix"),
        (
            "another magnitude",
            "magnitudes for model.layers.1.mlp.up_proj.weight have the shape (127",
        ),
        ("not finite", "model.layers.1.mlp.up_proj.weight would contain a value that is not"),
    ],
)
def test_mismatched_adapter_is_refused(
    done: Workshop, make: MakeWorkshop, tmp_path: Path, change: str, said: str
) -> None:
    shutil.copytree(done.work, tmp_path / "work")
    workshop = make(work=tmp_path / "work")
    change_adapter(workshop, change)
    ended = workshop.run("merge", build="b2")
    assert (ended.code, ended.result["reason"]) == (84, "NotMergeable")
    assert said in ended.message
    assert "merged-b2" not in workshop.published()
    if change != "not finite":
        assert not list(workshop.work.glob(".writing-*"))


@pytest.mark.parametrize("part", ["pairs", "replacements"])
def test_integer_base_tensor_is_refused_from_its_header(tmp_path: Path, part: str) -> None:
    name = "model.layers.0.mlp.up_proj"
    save_file({f"{name}.weight": torch.zeros(8, 4, dtype=torch.int8)}, tmp_path / "m.safetensors")
    a, b = (f"base_model.model.{name}.lora_{side}.weight" for side in "AB")
    pair = {a: torch.zeros(2, 4), b: torch.zeros(8, 2)}
    whole = {f"base_model.model.{name}.weight": torch.zeros(8, 4)}
    save_file(pair if part == "pairs" else whole, tmp_path / adapter_files.WEIGHTS)
    peft.LoraConfig(r=2, modules_to_save=["up_proj"]).save_pretrained(tmp_path)
    with pytest.raises(
        NotMergeable, match=rf"^{name}.weight has the type I8, which cannot be merged"
    ):
        adapter_files.read(tmp_path, read_header(tmp_path, ["m.safetensors"]), tied=False)


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
def test_tied_embedding_or_head_is_not_replaced(
    make: MakeWorkshop, hub: Hub, tmp_path: Path, name: str
) -> None:
    folder = tiny.model(tmp_path / "base", tied=True)
    workshop = make(
        model={"source": hub.add("model", "demo/tied", folder)}, training={"maxSteps": 1}
    )
    workshop.prepare_and_train()
    publish_adapter(workshop, peft.LoraConfig(target_modules="all-linear", modules_to_save=[name]))
    ended = workshop.run("merge", build="b")
    assert (ended.code, ended.result["reason"]) == (84, "NotMergeable")
    assert (
        f"{name}.weight, but the embedding and the head of the base model share one"
        in ended.message
    )
    assert not list(workshop.work.glob(".writing-*"))


def test_config_keeps_its_dtype_key() -> None:
    assert merged_config.with_dtype({"torch_dtype": "float32"}, "float16") == {
        "torch_dtype": "float16"
    }
    assert merged_config.with_dtype({"dtype": "float32"}, "float16") == {"dtype": "float16"}
    nested = {"dtype": "bfloat16", "text_config": {"dtype": "bfloat16", "x": 1}}
    assert merged_config.with_dtype(nested, "float16") == {
        "dtype": "float16",
        "text_config": {"dtype": "float16", "x": 1},
    }
    assert (
        json.dumps(merged_config.with_dtype({"a": 1}, "float16"))
        == '{"a": 1, "torch_dtype": "float16"}'
    )


def copy_of(workshop: Workshop, make: MakeWorkshop, tmp_path: Path) -> Workshop:
    shutil.copytree(workshop.work, tmp_path / "work")
    return make(work=tmp_path / "work")


def publish_adapter(workshop: Workshop, config: peft.LoraConfig) -> None:
    """Replace the trained adapter by a PEFT adapter with random weights."""
    base = transformers.AutoModelForCausalLM.from_pretrained(
        workshop.work / "base", dtype=torch.float32
    )
    made = peft.get_peft_model(base, config)
    torch.manual_seed(5)
    for name, parameter in made.named_parameters():
        if parameter.requires_grad and "magnitude" not in name:
            parameter.data = torch.randn_like(parameter) * 0.05
    scratch = workshop.work / "made"
    made.save_pretrained(scratch)
    (scratch / "README.md").unlink()
    shutil.copyfile(
        workshop.work / "adapter" / "quantization.safetensors", scratch / "quantization.safetensors"
    )
    found = manifest.read(workshop.work / "adapter")
    manifest.publish(
        scratch, workshop.work / "adapter", kind=found.kind, key=found.key, facts=found.facts
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"rank_pattern": {"q_proj": 4, r"layers\.1\.mlp\.up_proj": 2}},
        {"alpha_pattern": {"v_proj": 5, "layers.0.mlp.down_proj": 64}, "use_rslora": True},
        {"rank_pattern": {"k_proj": 3}, "alpha_pattern": {"k_proj": 1}, "use_dora": True},
        {"modules_to_save": ["lm_head", "embed_tokens"]},
    ],
    ids=str,
)
def test_rank_and_alpha_patterns_and_fully_trained_modules(
    done: Workshop, make: MakeWorkshop, tmp_path: Path, settings: dict[str, Any]
) -> None:
    workshop = copy_of(done, make, tmp_path)
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", **settings)
    publish_adapter(workshop, config)
    workshop.succeed("merge", build="b", dtype="bfloat16", base="original")
    base = transformers.AutoModelForCausalLM.from_pretrained(
        workshop.work / "base", dtype=torch.float32
    )
    theirs = peft.PeftModel.from_pretrained(base, workshop.work / "adapter").merge_and_unload()
    same(weights(workshop.work / "merged-b"), dict(theirs.bfloat16().state_dict()))


def private_files() -> None:
    """Create files with mode 0600."""
    os.umask(0o077)


def test_files_in_subfolders_are_copied_and_world_readable(
    done: Workshop, make: MakeWorkshop, tmp_path: Path
) -> None:
    workshop = copy_of(done, make, tmp_path)
    scratch, found = workshop.work / "changed", manifest.read(workshop.work / "base")
    shutil.copytree(workshop.work / "base", scratch)
    name = "additional_chat_templates/tools.jinja"
    (scratch / name).parent.mkdir()
    (scratch / name).write_text("{{ messages }}")
    manifest.publish(
        scratch, workshop.work / "base", kind=found.kind, key=found.key, facts=found.facts
    )
    images = {"prepare": "trainer@sha256:1", "train": "trainer@sha256:2"}
    workshop.with_fault(private_files).succeed("merge", build="b2", images=images)
    merged = workshop.work / "merged-b2"
    assert manifest.read(merged).facts["images"] == images
    for stage, image in images.items():
        assert f"| image of the {stage} stage | `{image}` |" in (merged / "README.md").read_text()
    assert (merged / name).read_text() == "{{ messages }}"
    for path in (merged, *merged.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path


def test_base_with_biases(make: MakeWorkshop, hub: Hub, tmp_path: Path) -> None:
    folder = tiny.model(tmp_path / "base", attention_bias=True, mlp_bias=True)
    workshop = make(
        model={"source": hub.add("model", "demo/biased", folder)}, training={"maxSteps": 1}
    )
    workshop.prepare_and_train()
    workshop.succeed("merge", build="b", dtype="bfloat16", base="original")
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, workshop.work / "adapter").merge_and_unload()
    expected = dict(theirs.bfloat16().state_dict())
    assert sum(name.endswith("bias") for name in expected) == 14
    same(weights(workshop.work / "merged-b"), expected)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bias": "all"}, "the adapter contains trained biases (bias: all)"),
        ({"lora_bias": True}, "adapter_config.json of the adapter sets {'lora_bias': True}"),
        ({"trainable_token_indices": [1]}, "of the adapter sets {'trainable_token_indices'"),
    ],
)
def test_unsupported_adapter_kind_is_refused_before_writing(
    done: Workshop, make: MakeWorkshop, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    workshop = copy_of(done, make, tmp_path)
    publish_adapter(workshop, peft.LoraConfig(target_modules="all-linear", **settings))
    ended = workshop.run("merge", build="b2", base="original")
    assert (ended.code, ended.result["reason"]) == (84, "NotMergeable")
    assert said in ended.message
    assert not list(workshop.work.glob(".writing-*"))


def test_piece_size_does_not_change_the_result(
    trained: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained.work / "base"
    header = read_header(folder, sorted(path.name for path in folder.glob("*.safetensors")))
    found = adapter_files.read(trained.work / "adapter", header, tied=False)
    rounded = DequantizedBase(manifest.read(trained.work / "adapter"), trained.work / "adapter")

    def merged() -> dict[str, torch.Tensor]:
        made = lora_delta.LoraMerger(found, dtype=torch.float16, dequantized=rounded)
        return {
            name: torch.cat(
                [p.clone() for p in made.merge(read_tensor(folder / tensor.file, name), tensor)]
            )
            for name, tensor in header.tensors.items()
        }

    whole = merged()
    monkeypatch.setattr(lora_delta, "PIECE", 640)
    same(merged(), whole)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(14336, 4096), (4096, 14336), (1000, 8192)], ids=str)
def test_product_in_pieces_equals_the_whole_product(
    tmp_path: Path, shape: tuple[int, int], threads: int
) -> None:
    rows, columns = shape
    torch.manual_seed(7)
    a, b = torch.randn(16, columns) * 0.02, torch.randn(rows, 16) * 0.02
    weight = torch.randn(rows, columns, dtype=torch.bfloat16) * 0.02
    name = "model.layers.0.mlp.up_proj"
    prefix = f"base_model.model.{name}.lora"
    save_file({f"{name}.weight": weight}, tmp_path / "model.safetensors")
    save_file({f"{prefix}_A.weight": a, f"{prefix}_B.weight": b}, tmp_path / adapter_files.WEIGHTS)
    peft.LoraConfig(r=16, lora_alpha=24).save_pretrained(tmp_path)
    header = read_header(tmp_path, ["model.safetensors"])
    found = adapter_files.read(tmp_path, header, tied=False)
    made = lora_delta.LoraMerger(found, dtype=torch.bfloat16, dequantized=None)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        pieces = list(made.merge(weight, header.tensors[f"{name}.weight"]))
        whole = (weight + (b @ a) * 1.5).to(torch.bfloat16)
    finally:
        torch.set_num_threads(before)
    assert len(pieces) > 1
    assert torch.equal(torch.cat(pieces).reshape(shape), whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_nf4_codes_equal_bitsandbytes(dtype: torch.dtype) -> None:
    torch.manual_seed(8)
    weight = torch.randn(700, 1024).to(dtype) * 0.02
    weight[0] = 0
    # Weights at and next to the boundaries between two codes.
    table = get_4bit_type("nf4", device="cpu")
    borders = ((table[:-1] + table[1:]) / 2).repeat(4)[:60]
    weight[1, :64] = torch.cat([borders, torch.tensor([1.0, -1.0, 0.0, 0.5])]).to(dtype)
    up, down = (torch.nextafter(borders, torch.full_like(borders, end)) for end in (9.0, -9.0))
    weight[1, 64:192] = torch.cat([up, torch.ones(4), down, torch.ones(4)]).to(dtype)
    codes, state = quantize_4bit(weight, blocksize=64, quant_type="nf4")
    found, largest = nf4.quantize(weight, block=64)
    assert torch.equal(found, codes)
    assert torch.equal(largest, state.absmax)


@pytest.mark.parametrize(
    ("dtype", "bad", "said"),
    [
        (dtype, float(bad), "would contain a value that is not finite, so the base or the adapter")
        for dtype in (torch.bfloat16, torch.float16)
        for bad in ("nan", "inf", "-inf")
    ]
    + [
        (torch.float16, sign * 7e4, "has the value 7.014e.04, which torch.float16")
        for sign in (1, -1)
    ],
    ids=str,
)
def test_single_unrepresentable_value_is_detected(
    done: Workshop, dtype: torch.dtype, bad: float, said: str
) -> None:
    folder, name = done.work / "base", "model.layers.1.mlp.up_proj.weight"
    header = read_header(folder, sorted(path.name for path in folder.glob("*.safetensors")))
    found = adapter_files.read(done.work / "adapter", header, tied=False)
    tensor = header.tensors[name]
    weight = read_tensor(folder / tensor.file, name).clone()
    weight[3, 5] = bad
    made = lora_delta.LoraMerger(found, dtype=dtype, dequantized=None)
    with pytest.raises(NotMergeable, match=f"{name} {said}"):
        list(made.merge(weight, tensor))


def test_check_detects_a_wrong_merge(done: Workshop) -> None:
    folder, name = done.work / "base", "model.layers.1.mlp.up_proj.weight"
    header = read_header(folder, sorted(path.name for path in folder.glob("*.safetensors")))
    found = adapter_files.read(done.work / "adapter", header, tied=False)
    tensor = header.tensors[name]
    made = lora_delta.LoraMerger(found, dtype=torch.float16, dequantized=None)

    def fold() -> torch.Tensor:
        made.applied.clear()
        pieces = list(made.merge(read_tensor(folder / tensor.file, name), tensor))
        return torch.cat(pieces).reshape(tensor.shape)

    made.check(name, fold())
    right = fold()
    with pytest.raises(NotMergeable, match=f"{name} was merged incorrectly: row"):
        made.check(name, right * 1.01)
    right = fold()
    with pytest.raises(NotMergeable, match="was merged incorrectly"):
        made.check(name, torch.zeros_like(right))
    with pytest.raises(NotMergeable, match=f"adapter weights of {name} would be applied twice"):
        list(made.merge(read_tensor(folder / tensor.file, name), tensor))


def test_wrong_sums_fail_the_merge(done: Workshop, make: MakeWorkshop, tmp_path: Path) -> None:
    workshop = copy_of(done, make, tmp_path)
    name = "model.layers.0.self_attn.k_proj.weight"
    ended = workshop.with_fault(WrongSums(name=name)).run("merge", build="b2")
    assert (ended.code, ended.result["reason"]) == (84, "NotMergeable")
    assert f"{name} was merged incorrectly: row" in ended.message
    assert "merged-b2" not in workshop.published()


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (
            "model.layers.0.mlp.up_proj",
            "the 4-bit codes of {} differ from the codes that training used",
        ),
        (
            "model.layers.9.mlp.up_proj",
            "the training quantized the tensor {}.weight, but the files of the base model",
        ),
    ],
)
def test_different_4bit_codes_are_refused(
    done: Workshop, make: MakeWorkshop, tmp_path: Path, module: str, said: str
) -> None:
    workshop = copy_of(done, make, tmp_path)
    found = manifest.read(workshop.work / "adapter")
    digests = found.facts["quantizedModules"] | {module: "0" * 64}
    facts = found.facts | {"quantizedModules": digests}
    scratch = workshop.work / "changed"
    shutil.copytree(workshop.work / "adapter", scratch)
    manifest.publish(
        scratch, workshop.work / "adapter", kind=found.kind, key=found.key, facts=facts
    )
    ended = workshop.run("merge", build="b2")
    assert (ended.code, ended.result["reason"]) == (84, "NotMergeable")
    assert said.format(module) in ended.message
    assert "set merge.base to original" in ended.message
    assert workshop.succeed("merge", build="b2", base="original")


def test_merge_uses_the_recorded_quantization_scales(
    done: Workshop, make: MakeWorkshop, tmp_path: Path
) -> None:
    """A GPU sums in another order than a CPU, so its quantization offset differs."""
    workshop = copy_of(done, make, tmp_path)
    found = manifest.read(workshop.work / "adapter")
    scratch = workshop.work / "changed"
    shutil.copytree(workshop.work / "adapter", scratch)
    scales = load_file(scratch / "quantization.safetensors")
    module = "model.layers.0.mlp.up_proj"
    scales[f"{module}.offset"] *= 1.01
    save_file(scales, scratch / "quantization.safetensors")
    manifest.publish(
        scratch, workshop.work / "adapter", kind=found.kind, key=found.key, facts=found.facts
    )
    workshop.succeed("merge", build="b2")
    before, after = weights(done.work / "merged-b1"), weights(workshop.work / "merged-b2")
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        f"{module}.weight"
    }
