"""What is picked, what is refused, and with which words."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.trainer import shapes

from finetune_api.v1alpha1.lora import Lora
from finetune_api.v1alpha1.training import AdvancedTraining, Training
from finetune_trainer.__main__ import main
from finetune_trainer.estimate import budget, memory, serving, shape, verdict
from finetune_trainer.estimate.backends import FORMULAS
from finetune_trainer.estimate.budget import Data, Estimate, EstimateOptions
from finetune_trainer.estimate.memory import GIB
from finetune_trainer.estimate.serving import ServingOptions
from finetune_trainer.runtime import cards

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


def bill(recipe: Training, *, card: cards.Card | None = A10G, **data: Any) -> Estimate:
    return budget.estimate(LLAMA3, recipe, data=Data(**data), options=EstimateOptions(card=card))


def micro(size: int, **advanced: Any) -> AdvancedTraining:
    return AdvancedTraining(micro_batch_size=size, **advanced)


def test_an_a10g_has_less_than_its_name_says() -> None:
    assert pytest.approx(22.49, abs=0.005) == A10G.gib


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("NVIDIA-A10G", "NVIDIA-A10G"),
        ("NVIDIA-A10G-SHARED", "NVIDIA-A10G"),
        ("A10G", "NVIDIA-A10G"),
        ("Tesla-T4", "Tesla-T4"),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA-A100-SXM4-80GB"),
        ("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", None),
        ("NVIDIA-Imaginary", None),
    ],
)
def test_a_card_is_found_by_its_label(label: str, name: str | None) -> None:
    found = cards.find(label)
    assert (found.name if found else None) == name


@pytest.mark.parametrize("effective", [1, 2, 6, 8, 12, 64])
@pytest.mark.parametrize("length", [512, 2048, 4096])
def test_the_largest_micro_batch_that_fits_is_picked(effective: int, length: int) -> None:
    recipe = Training(effective_batch_size=effective, sequence_length=length)
    found = bill(recipe)
    divisors = [each for each in range(1, effective + 1) if effective % each == 0]
    assert found.micro_batch in divisors
    assert found.micro_batch * found.accumulation == effective
    formula = FORMULAS[recipe.advanced.backend]
    sizes = {
        each: memory.training(LLAMA3, recipe, formula, micro_batch=each, length=length).total
        for each in divisors
    }
    fitting = [each for each, size in sizes.items() if size <= 0.9 * A10G.memory]
    assert found.micro_batch == max(fitting, default=1)


def test_early_stopping_keeps_one_checkpoint_more() -> None:
    stopping = AdvancedTraining(early_stopping_patience=2)
    adapter = memory.trained_parameters(LLAMA3, Training()) * 4
    states = memory.optimizer_bytes(LLAMA3, Training())
    more = bill(Training(advanced=stopping)).volume - bill(Training()).volume
    assert more == adapter + states


def test_a_written_micro_batch_is_never_changed() -> None:
    recipe = Training(sequence_length=8192, effective_batch_size=8, advanced=micro(8))
    assert bill(recipe).micro_batch == 8
    assert bill(recipe, card=None).micro_batch == 8


def test_on_an_unknown_card_nothing_is_refused() -> None:
    recipe = Training(sequence_length=131072, advanced=micro(8, gradient_checkpointing=False))
    found = bill(recipe, card=None)
    assert found.training_fits
    assert verdict.refusal(found, LLAMA3, recipe, Data(), None) is None


def test_rows_that_are_all_short_take_no_more_than_they_need() -> None:
    short = bill(Training(sequence_length=4096, packing="never"), longest=300, packed=False)
    assert short.length == 300
    assert bill(Training(sequence_length=4096), longest=300, packed=True).length == 4096


def test_embedding_and_head_in_full_are_counted_on_the_card_and_on_the_volume() -> None:
    plain, full = (
        bill(Training(lora=Lora(modules_to_save=saved), advanced=micro(1)))
        for saved in (None, ["embed_tokens", "lm_head"])
    )
    table = 128256 * 4096
    assert full.training.adapter - plain.training.adapter == 2 * table * 8
    # Adam's two states, of the head in 8 bits, of the embedding in 32.
    states = full.training.optimizer - plain.training.optimizer
    assert states == table * 2 + table * 2 // 64 + table * 8
    # Plain, the loss needs less than a layer does.
    assert full.training.loss > memory.HEAD_GRADIENT * table - full.training.activations > 0
    assert plain.training.loss == 0
    assert full.volume - plain.volume == 4 * 2 * table * 4 + 3 * states


def test_without_them_is_a_way_out() -> None:
    recipe = Training(lora=Lora(modules_to_save=["embed_tokens", "lm_head"]), advanced=micro(1))
    assert not bill(recipe).training_fits
    assert "set (1) no training.lora.modulesToSave, or (2) " in refused(recipe)
    assert bill(Training(advanced=micro(1))).training_fits


def refused(recipe: Training) -> str:
    found = bill(recipe)
    said = verdict.refusal(found, LLAMA3, recipe, Data(), None)
    assert said is not None
    return str(said)


def test_every_way_out_fits() -> None:
    recipe = Training(
        sequence_length=8192,
        packing="always",
        lora=Lora(dropout=0.05),
        advanced=micro(2, gradient_checkpointing=False),
    )
    text = refused(recipe)
    ways = text.split(": set ")[1].split(", or ")
    assert len(ways) == 3
    for way in ways:
        changed = recipe
        for change in way.split(") ", 1)[1].split(" and "):
            field, value = change.split(": ")
            *groups, name = field.split(".")
            document = changed.model_dump(mode="json", exclude_unset=True)
            group = document
            for each in groups[1:]:
                group = group.setdefault(each, {})
            group[name] = json.loads(value) if value not in FORMULAS else value
            changed = Training.model_validate(document)
        assert bill(changed).training.total <= 0.9 * A10G.memory, way


def test_serving_is_refused_before_training() -> None:
    long_context = known(shapes.LLAMA31_8B)
    wanted = ServingOptions(max_model_len=None, share=0.88)
    asked = EstimateOptions(card=A10G, serving=wanted)
    found = budget.estimate(long_context, Training(), data=Data(), options=asked)
    said = verdict.refusal(found, long_context, Training(), Data(), wanted)
    assert said is not None
    assert "131072 tokens" in str(said)
    assert "22.49 GiB" in str(said)
    length = serving.longest_that_fits(long_context, wanted, A10G)
    assert f"(1) serving.maxModelLen: {length}" in str(said)
    for tokens, fits in ((length, True), (length + 256, False)):
        with_length = EstimateOptions(
            card=A10G, serving=ServingOptions(max_model_len=tokens, share=0.88)
        )
        again = budget.estimate(long_context, Training(), data=Data(), options=with_length)
        assert again.serving_fits is fits


def test_vllm_gets_the_16_bit_weights_and_one_longest_request() -> None:
    found = serving.serving(LLAMA3, ServingOptions(max_model_len=8192, share=0.88))
    assert found is not None
    assert found.weights == 16_060_522_496
    assert found.cache == GIB


def test_families_that_are_not_known_are_not_guessed() -> None:
    assert shape.read(shapes.LLAMA3_8B | {"model_type": "mixtral"}) is None
    assert shape.read({"model_type": "llama"}) is None


def written(folder: Path, text: str = MANIFEST, config: dict[str, Any] | None = None) -> list[str]:
    (folder / "finetune.yaml").write_text(text)
    (folder / "config.json").write_text(json.dumps(config or shapes.LLAMA3_8B))
    return ["estimate", "-f", f"{folder}/finetune.yaml", "--model", str(folder)]


def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*written(tmp_path), "--rows", "52000", "--tokens", "6000000"]) == 0
    table = capsys.readouterr().out
    for words in ("support: org/model on NVIDIA-A10G (22.49 GiB)", "base in 4 bits", "fits"):
        assert words in table
    assert "18,000,000" in table


def test_the_command_refuses_as_the_cluster_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = MANIFEST + "  serving: {maxModelLen: 1048576}\n"
    assert main(written(tmp_path, text)) == 82
    assert "DoesNotFit: serving needs about" in capsys.readouterr().err


def test_the_command_needs_neither_torch_nor_the_network(tmp_path: Path) -> None:
    arguments = written(tmp_path)
    code = (
        "import sys\n"
        "from finetune_trainer.__main__ import main\n"
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


def test_rows_to_evaluate_on_take_disk_and_host_memory_but_no_time() -> None:
    few, many = (bill(Training(), tokens=1000, held_out_tokens=each) for each in (0, 10**9))
    assert many.volume - few.volume == 8 * 10**9
    assert many.host - few.host == 16 * 10**9
    assert many.tokens == few.tokens
