"""The chosen micro-batch, the refusals of the estimate, and its command."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.trainer import shapes
from tests.unit.trainer.recipes import BOTH, on_a_backend

from finetune_api.contracts.stage_request import ServingSettings
from finetune_api.v1alpha1.training.advanced import AdvancedTraining, Quantization
from finetune_api.v1alpha1.training.lora import Lora
from finetune_api.v1alpha1.training.training import Training
from finetune_cli.__main__ import main
from finetune_trainer.compatibility import backend_choice
from finetune_trainer.devices import cards
from finetune_trainer.estimate import budget, memory, serving, shape, verdict
from finetune_trainer.estimate.backends import FORMULAS
from finetune_trainer.estimate.budget import Data, Estimate, EstimateOptions
from finetune_trainer.estimate.memory import GIB, Step

A10G = cards.CARDS["NVIDIA-A10G"]


def known(config: dict[str, Any]) -> shape.Shape:
    found = shape.read(config)
    assert found is not None
    return found


LLAMA3 = known(shapes.LLAMA3_8B)
MANIFEST = """\
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {name: support}
spec:
  model: {source: hf://org/model}
  dataset: {source: hf://org/rows, format: alpaca}
"""


def estimated(recipe: Training, *, card: cards.Card | None = A10G, **data: Any) -> Estimate:
    options = EstimateOptions(card=card)
    return budget.estimate(LLAMA3, on_a_backend(recipe), data=Data(**data), options=options)


def micro(size: int, **advanced: Any) -> AdvancedTraining:
    return AdvancedTraining(micro_batch_size=size, **advanced)


def test_memory_of_an_a10g_is_less_than_24_gib() -> None:
    assert pytest.approx(22.49, abs=0.005) == A10G.gib


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("NVIDIA-A10G", "NVIDIA-A10G"),
        ("NVIDIA-A10G-SHARED", "NVIDIA-A10G"),
        ("A10G", "NVIDIA-A10G"),
        ("Tesla-T4", "Tesla-T4"),
        ("NVIDIA-B200-MIG-1g.23gb", "NVIDIA-B200-MIG-1g.23gb"),
        ("NVIDIA A30", "NVIDIA-A30"),
        ("NVIDIA-L40", "NVIDIA-L40"),
        ("NVIDIA H100 NVL", "NVIDIA-H100-NVL"),
        ("NVIDIA GeForce RTX 5090", "NVIDIA-GeForce-RTX-5090"),
        (
            "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition-SHARED",
            "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition",
        ),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA-A100-SXM4-80GB"),
        ("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb"),
        ("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb-SHARED", "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb"),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("NVIDIA-A100-SXM4-80GB-MIG-mixed", None),
        ("NVIDIA-A100-SXM4-40GB-MIG-7g.80gb", None),
        ("NVIDIA-Imaginary-MIG-1g.10gb", None),
        ("NVIDIA-Imaginary", None),
    ],
)
def test_gpu_is_found_by_node_label(label: str, name: str | None) -> None:
    found = cards.find(label)
    assert (found.name if found else None) == name
    assert found is None or found.shared == label.endswith("-SHARED")


@pytest.mark.parametrize(
    ("card", "profile", "gib", "share"),
    [
        # GiB as listed by nvidia-smi mig -lgip.
        ("NVIDIA-A100-SXM4-40GB", "1g.5gb", 4.75, 1 / 7),
        ("NVIDIA-H100-80GB-HBM3", "1g.10gb", 9.75, 1 / 7),
        ("NVIDIA-H100-80GB-HBM3", "1g.20gb", 19.62, 1 / 7),
        ("NVIDIA-H100-80GB-HBM3", "1g.10gb.me", 9.75, 1 / 7),
        ("NVIDIA-H100-80GB-HBM3", "3g.40gb", 39.50, 3 / 7),
        ("NVIDIA-H100-80GB-HBM3", "7g.80gb", 79.25, 1),
        ("NVIDIA-A30", "1g.6gb", 5.81, 1 / 4),
        ("NVIDIA-A30", "4g.24gb", 23.44, 1),
    ],
)
def test_mig_device_has_a_part_of_its_card(
    card: str, profile: str, gib: float, share: float
) -> None:
    found = cards.find(f"{card}-MIG-{profile}")
    assert found is not None
    assert 0.9 * gib < found.gib <= gib
    whole = cards.CARDS[card]
    assert found.capability == whole.capability
    assert found.tflops == pytest.approx((whole.tflops or 0) * share)


def test_time_sliced_card_has_a_warning() -> None:
    (said,) = verdict.warnings(estimated(Training(), card=cards.find("NVIDIA-A10G-SHARED")))
    assert said.startswith("NVIDIA-A10G is time-sliced: other pods can use parts of its 22.49 GiB")
    assert verdict.warnings(estimated(Training())) == []


@pytest.mark.parametrize("effective", [1, 2, 6, 8, 12, 64])
@pytest.mark.parametrize("length", [512, 2048, 4096])
def test_largest_fitting_micro_batch_is_chosen(effective: int, length: int) -> None:
    recipe = on_a_backend(Training(effective_batch_size=effective, sequence_length=length))
    found = estimated(recipe)
    divisors = [each for each in range(1, effective + 1) if effective % each == 0]
    assert found.micro_batch in divisors
    assert found.micro_batch * found.accumulation == effective
    formula = FORMULAS[recipe.advanced.backend]
    sizes = {
        each: memory.training(
            LLAMA3,
            recipe,
            formula,
            Step(micro_batch=each, length=length, packed=True, kernel="varlen"),
        ).total
        for each in divisors
    }
    fitting = [each for each, size in sizes.items() if size <= 0.9 * A10G.memory]
    assert found.micro_batch == max(fitting, default=1)


@pytest.mark.parametrize(
    ("changes", "card", "micro_batch"),
    [
        ({}, "NVIDIA-A10G", 8),
        ({"attn_implementation": "sdpa"}, "NVIDIA-A10G", 1),
        ({"quantization": Quantization(compute_dtype="float16")}, "Tesla-T4", 1),
        ({"attn_implementation": "sdpa", "backend": "unsloth"}, "NVIDIA-A10G", 8),
        ({"attn_implementation": "sdpa", "micro_batch_size": 4}, "NVIDIA-A10G", 4),
    ],
)
def test_packed_rows_with_a_mask_are_trained_one_at_a_time(
    changes: dict[str, Any], card: str, micro_batch: int
) -> None:
    advanced = AdvancedTraining(**{"backend": "trl", **changes})
    recipe = Training(effective_batch_size=8, sequence_length=512, advanced=advanced)
    found = estimated(recipe, card=cards.CARDS[card], packed=True)
    assert found.micro_batch == micro_batch
    masked = advanced.backend == "trl" and changes
    assert found.training.masks == ((masked and (512 * micro_batch) ** 2) or 0)
    assert estimated(recipe, card=cards.CARDS[card], packed=False).micro_batch == (
        advanced.micro_batch_size or 8
    )


def test_early_stopping_needs_space_for_one_more_checkpoint() -> None:
    stopping = AdvancedTraining(early_stopping_patience=2)
    adapter = memory.trained_parameters(LLAMA3, Training()) * 4
    states = memory.optimizer_bytes(LLAMA3, Training())
    more = estimated(Training(advanced=stopping)).volume - estimated(Training()).volume
    assert more == adapter + states


def test_micro_batch_of_the_spec_is_kept() -> None:
    recipe = Training(sequence_length=8192, effective_batch_size=8, advanced=micro(8))
    assert estimated(recipe).micro_batch == 8
    assert estimated(recipe, card=None).micro_batch == 8


@pytest.mark.parametrize(
    ("length", "written", "backend", "card", "on"),
    [
        (512, None, "trl", "NVIDIA-A100-SXM4-80GB", False),
        (8192, None, "trl", "NVIDIA-A100-SXM4-80GB", True),
        (512, True, "trl", "NVIDIA-A100-SXM4-80GB", True),
        (8192, False, "trl", "NVIDIA-A100-SXM4-80GB", False),
        (512, None, "unsloth", "NVIDIA-A100-SXM4-80GB", True),
        (512, None, "trl", None, True),
    ],
)
def test_gradient_checkpointing_is_off_if_it_is_not_needed(
    length: int, written: bool | None, backend: str, card: str | None, on: bool
) -> None:
    fields: Any = {"backend": backend, "gradient_checkpointing": written}
    recipe = Training(sequence_length=length, advanced=micro(8, **fields))
    found = estimated(recipe, card=None if card is None else cards.CARDS[card])
    assert found.checkpointing is on
    explicit = Training(
        sequence_length=length,
        advanced=micro(8, **{**fields, "gradient_checkpointing": on}),
    )
    same = estimated(explicit, card=None if card is None else cards.CARDS[card])
    assert (found.training, found.seconds) == (same.training, same.seconds)


def test_gradient_checkpointing_does_not_cost_a_larger_micro_batch() -> None:
    card = cards.CARDS["NVIDIA-A100-SXM4-80GB"]
    fields = [None, True, False]
    found, on, off = (
        estimated(
            Training(
                sequence_length=2048,
                advanced=AdvancedTraining(backend="trl", gradient_checkpointing=each),
            ),
            card=card,
        )
        for each in fields
    )
    assert on.micro_batch > off.micro_batch
    assert (found.checkpointing, found.micro_batch) == (True, on.micro_batch)


def test_nothing_is_refused_on_an_unknown_gpu() -> None:
    recipe = Training(sequence_length=131072, advanced=micro(8, gradient_checkpointing=False))
    found = estimated(recipe, card=None)
    assert found.training_fits
    assert verdict.refusal(found, LLAMA3, recipe, Data(), None, BOTH) is None


def test_row_length_is_that_of_the_longest_row_unless_packed() -> None:
    short = estimated(Training(sequence_length=4096, packing="never"), longest=300, packed=False)
    assert short.length == 300
    assert estimated(Training(sequence_length=4096), longest=300, packed=True).length == 4096


def test_modules_to_save_count_in_gpu_memory_and_on_the_volume() -> None:
    plain, full = (
        estimated(Training(lora=Lora(modules_to_save=saved), advanced=micro(1)))
        for saved in (None, ["embed_tokens", "lm_head"])
    )
    table = 128256 * 4096
    assert full.training.adapter - plain.training.adapter == 2 * table * 8
    # The two states of Adam: 8 bits for the head, 32 bits for the embedding.
    states = full.training.optimizer - plain.training.optimizer
    assert states == table * 2 + table * 2 // 64 + table * 8
    # Without chunks, the loss needs less memory than a layer.
    assert full.training.loss > memory.HEAD_GRADIENT * table - full.training.activations > 0
    assert plain.training.loss == 0
    assert full.volume - plain.volume == 4 * 2 * table * 4 + 3 * states


def test_removing_modules_to_save_is_suggested() -> None:
    recipe = Training(lora=Lora(modules_to_save=["embed_tokens", "lm_head"]), advanced=micro(1))
    assert not estimated(recipe).training_fits
    assert "set (1) training.lora.modulesToSave: null, or (2) " in refused(recipe)
    assert estimated(Training(advanced=micro(1))).training_fits


def refused(recipe: Training) -> str:
    found = estimated(recipe)
    refusal = verdict.refusal(found, LLAMA3, on_a_backend(recipe), Data(), None, BOTH)
    assert refusal is not None
    return str(refusal)


def test_every_suggestion_fits() -> None:
    recipe = Training(
        sequence_length=8192,
        packing="always",
        lora=Lora(dropout=0.05),
        advanced=micro(2, gradient_checkpointing=False),
    )
    text = refused(recipe)
    alternatives = text.split(": set ")[1].split(", or ")
    assert len(alternatives) == 3
    fields = [each for each in alternatives if "placement.nodeSelector" not in each]
    assert len(fields) >= 2
    for alternative in fields:
        changed = recipe
        for change in alternative.split(") ", 1)[1].split(" and "):
            field, value = change.split(": ")
            *groups, name = field.split(".")
            document = changed.model_dump(mode="json", exclude_unset=True)
            group = document
            for each in groups[1:]:
                group = group.setdefault(each, {})
            group[name] = json.loads(value) if value not in FORMULAS else value
            changed = Training.model_validate(document)
        assert estimated(changed).training.total <= 0.9 * A10G.memory, alternative


def test_serving_that_does_not_fit_is_refused() -> None:
    long_context = known(shapes.LLAMA31_8B)
    serving_options = ServingSettings(max_model_len=None, gpu_memory_utilization=0.88)
    options = EstimateOptions(card=A10G, serving=serving_options)
    recipe = on_a_backend(Training())
    found = budget.estimate(long_context, recipe, data=Data(), options=options)
    refusal = verdict.refusal(found, long_context, recipe, Data(), serving_options, BOTH)
    assert refusal is not None
    assert "131072 tokens" in str(refusal)
    assert "22.49 GiB" in str(refusal)
    length = serving.longest_that_fits(long_context, serving_options, A10G)
    assert f"(1) serving.maxModelLen: {length}" in str(refusal)
    for tokens, fits in ((length, True), (length * 10 // 9 + 512, False)):
        with_length = EstimateOptions(
            card=A10G, serving=ServingSettings(max_model_len=tokens, gpu_memory_utilization=0.88)
        )
        again = budget.estimate(long_context, recipe, data=Data(), options=with_length)
        assert again.serving_fits is fits


def test_serving_memory_has_16_bit_weights_and_cache_of_one_request() -> None:
    settings = ServingSettings(max_model_len=8192, gpu_memory_utilization=0.88)
    found = serving.serving(LLAMA3, settings)
    assert found is not None
    assert found.weights == 16_060_522_496
    assert found.cache == GIB


def test_unknown_families_have_no_shape() -> None:
    assert shape.read(shapes.LLAMA3_8B | {"model_type": "mixtral"}) is None
    assert shape.read({"model_type": "llama"}) is None


def written(folder: Path, text: str = MANIFEST, config: dict[str, Any] | None = None) -> list[str]:
    (folder / "finetune.yaml").write_text(text)
    (folder / "config.json").write_text(json.dumps(config or shapes.LLAMA3_8B))
    return ["estimate", "-f", f"{folder}/finetune.yaml", "--model", str(folder)]


def test_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*written(tmp_path), "--rows", "52000", "--tokens", "6000000"]) == 0
    table = capsys.readouterr().out
    for words in ("support: org/model on NVIDIA-A10G (22.49 GiB)", "base, 4 bits", "fits"):
        assert words in table
    assert "18,000,000" in table


@pytest.mark.parametrize(
    ("installed", "options", "backend", "reason"),
    [
        ({}, [], "trl", "the trainer image does not contain Unsloth"),
        ({}, ["--unsloth"], "unsloth", "the trainer image contains Unsloth, which supports model "),
        ({"unsloth": "1"}, [], "unsloth", "the trainer image contains Unsloth, which supports"),
    ],
)
def test_command_estimates_the_backend_that_auto_selects(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    installed: dict[str, str],
    options: list[str],
    backend: str,
    reason: str,
) -> None:
    monkeypatch.setattr(backend_choice, "installed", lambda: installed)
    assert main([*written(tmp_path), *options]) == 0
    table = capsys.readouterr().out
    assert f"Training  {backend}, micro-batch" in table
    assert f"The backend is {backend}: {reason}" in " ".join(table.split()) + " "


def test_command_rejects_a_family_that_the_set_backend_does_not_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = MANIFEST + "  training: {advanced: {backend: unsloth}}\n"
    assert main(written(tmp_path, text, shapes.LLAMA3_8B | {"model_type": "gemma2"})) == 64
    assert "Unsloth does not pack rows for models of the family gemma2" in capsys.readouterr().err


def test_command_proposes_no_backend_that_the_image_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_choice, "installed", dict)
    recipe = "sequenceLength: 1920, lora: {useDora: true}, packing: always"
    advanced = "microBatchSize: 1, gradientCheckpointing: false"
    text = MANIFEST + f"  training: {{{recipe}, effectiveBatchSize: 1, advanced: {{{advanced}}}}}\n"
    assert main(written(tmp_path, text)) == 82
    assert "training.advanced.backend" not in capsys.readouterr().err
    text = text.replace("advanced: {", "advanced: {backend: trl, ")
    assert main([*written(tmp_path, text), "--unsloth"]) == 82
    assert "training.advanced.backend: unsloth" in capsys.readouterr().err


def test_command_exits_with_82_if_serving_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = MANIFEST + "  serving: {maxModelLen: 1048576}\n"
    assert main(written(tmp_path, text)) == 82
    assert "DoesNotFit: serving needs about" in capsys.readouterr().err


def test_command_imports_neither_torch_nor_the_hub_client(tmp_path: Path) -> None:
    arguments = written(tmp_path)
    code = (
        "import sys\n"
        "from finetune_cli.__main__ import main\n"
        f"code = main({arguments!r})\n"
        "heavy = {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)\n"
        "sys.exit(code or (f'imported {heavy}' if heavy else 0))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_held_out_tokens_need_disk_and_host_memory_but_no_time() -> None:
    few, many = (estimated(Training(), tokens=1000, held_out_tokens=each) for each in (0, 10**9))
    assert many.volume - few.volume == 8 * 10**9
    assert many.host - few.host == 16 * 10**9
    assert many.tokens == few.tokens


def options(**changes: Any) -> EstimateOptions:
    return EstimateOptions(card=A10G, **changes)


def test_volume_has_base_adapter_checkpoints_and_merged_model() -> None:
    recipe = on_a_backend(Training(advanced=micro(1)))
    model = 2 * 8_030_261_248
    adapter = memory.trained_parameters(LLAMA3, recipe) * 4
    checkpoints = 3 * (adapter + memory.optimizer_bytes(LLAMA3, recipe))

    def volume(base_bytes: int | None = None, **changes: Any) -> int:
        found = budget.estimate(
            LLAMA3, recipe, data=Data(), options=options(**changes), base_bytes=base_bytes
        )
        return found.volume

    assert volume() == 2 * model + adapter + int(checkpoints)
    assert volume(merges=False) == model + adapter + int(checkpoints)
    assert volume(base_bytes=10**9) == volume() - model + 10**9


def test_host_memory_has_the_inputs_of_layers_in_rounded_blocks_with_unsloth() -> None:
    def host(backend: str, length: int = 1024, **advanced: Any) -> tuple[int, int]:
        recipe = Training(sequence_length=length, advanced=micro(2, backend=backend, **advanced))
        found = estimated(recipe)
        return found.host, found.pinned

    assert host("trl") == (3 * GIB, 0)
    assert host("unsloth") == (3 * GIB + 2 * 32 * 4096 * 2048, 0)
    assert host("unsloth", gradient_checkpointing=False) == (3 * GIB, 0)
    # 2 x 1,280 tokens take 20 MiB, in blocks of 32 MiB.
    assert host("unsloth", 1280) == (3 * GIB + 32 * 32 * 2**20, 32 * 12 * 2**20)


def test_host_memory_beyond_the_limit_of_the_train_pod_is_refused() -> None:
    recipe = Training(sequence_length=1280, advanced=micro(2, backend="unsloth"))
    found = estimated(recipe)
    least = 3 * GIB + 32 * 20 * 2**20
    assert verdict.host_refusal(found, None) is None
    assert verdict.host_refusal(found, least) is None
    refused = str(verdict.host_refusal(found, least - 1))
    assert "train.limits.memory is 3.62 GiB: set this limit to at least 4Gi" in refused
    assert "micro-batch size 2, 1280 tokens per row" in refused
    plain = verdict.host_refusal(estimated(Training(advanced=micro(2, backend="trl"))), GIB)
    assert "needs about 3.00 GiB of host memory, but" in str(plain)


def test_micro_batch_without_a_gpu_is_2_if_it_divides_the_effective_batch() -> None:
    def chosen(effective: int) -> int:
        return estimated(Training(effective_batch_size=effective), card=None).micro_batch

    assert [chosen(each) for each in (1, 2, 3, 8)] == [1, 2, 1, 2]


def test_training_tokens_count_padding_and_epochs() -> None:
    def tokens(*, pad: bool = False, **data: Any) -> int | None:
        recipe = Training(
            effective_batch_size=4,
            sequence_length=512,
            advanced=micro(1, pad_to_sequence_length=pad),
        )
        return estimated(recipe, **data).tokens

    assert tokens(steps=10, sequences=100, tokens=12_345) == 40 * 12_345 // 100
    assert tokens(steps=10, pad=True) == 40 * 512
    assert tokens(steps=10) is None
    assert tokens(sequences=100, tokens=12_345) is None


def test_operations_per_token_count_recomputation_and_a_trained_head() -> None:
    def flops(saved: list[str] | None = None, **advanced: Any) -> float:
        recipe = Training(lora=Lora(modules_to_save=saved), advanced=micro(1, **advanced))
        return budget.flops_per_token(LLAMA3, recipe, length=1024)

    attention = 2 * 32 * 4096 * 1024
    forward = 2 * (6_979_321_856 + 128256 * 4096) + attention
    assert flops(gradient_checkpointing=False) == 2 * forward + attention
    assert flops() == 3 * forward + attention
    assert flops(["lm_head"]) - flops() == 2 * 128256 * 4096
    assert flops(["embed_tokens"]) == flops()


def test_nearly_full_gpu_gets_a_warning() -> None:
    recipe = Training(sequence_length=4096, advanced=micro(8))
    found = estimated(recipe)
    total = found.training.total
    for share, warned in ((0.89, 0), (0.91, 1), (1.0, 1), (1.01, 0)):
        card = cards.Card(name="GPU", memory=int(total / share))
        assert len(verdict.warnings(estimated(recipe, card=card))) == warned, share
    assert verdict.warnings(estimated(recipe, card=None)) == []
