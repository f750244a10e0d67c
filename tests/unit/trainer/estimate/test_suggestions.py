"""The alternatives that a refusal suggests: they fit, they are valid, and none is redundant."""

import re
from typing import Any

import pytest
from tests.unit.trainer import shapes
from tests.unit.trainer.recipes import BOTH, on_a_backend

from finetune_api.contracts.stage_request import ServingSettings
from finetune_api.v1alpha1.training.advanced import AdvancedTraining
from finetune_api.v1alpha1.training.lora import Lora
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.devices import cards
from finetune_trainer.estimate import budget, shape, suggestions
from finetune_trainer.estimate.budget import Data, Estimate, EstimateOptions

A10G = cards.CARDS["NVIDIA-A10G"]
ALL = 99


@pytest.fixture(scope="module")
def llama3() -> shape.Shape:
    found = shape.read(shapes.LLAMA3_8B)
    assert found is not None
    return found


def alternatives(llama3: shape.Shape, recipe: Training, count: int = ALL, **data: Any) -> list[str]:
    return suggestions.for_training(llama3, recipe, Data(**data), A10G, backends=BOTH, count=count)


def recipe(*, lora: Lora | None = None, length: int = 4096, **advanced: Any) -> Training:
    effective = advanced.get("micro_batch_size", 8)
    return on_a_backend(
        Training(
            effective_batch_size=effective,
            sequence_length=length,
            lora=lora or Lora(),
            advanced=AdvancedTraining(**advanced),
        )
    )


@pytest.mark.parametrize("effective", [6, 12, 15, 24])
def test_suggested_micro_batch_divides_the_effective_batch(
    llama3: shape.Shape, effective: int
) -> None:
    too_large = recipe(micro_batch_size=effective, length=16384, backend="trl")
    found = " ".join(alternatives(llama3, too_large))
    sizes = [int(size) for size in re.findall(r"microBatchSize: (\d+)", found)]
    assert sizes
    assert all(effective % size == 0 and size < effective for size in sizes)


def test_largest_fitting_micro_batch_is_suggested_first(llama3: shape.Shape) -> None:
    def fits(size: int) -> bool:
        one = recipe(micro_batch_size=size, backend="trl")
        found = budget.estimate(llama3, one, data=Data(), options=EstimateOptions(card=A10G))
        return found.training.total <= 0.9 * A10G.memory

    largest = max(size for size in (1, 2, 3, 4, 6, 8, 12) if fits(size))
    assert 1 < largest < 12
    found = alternatives(llama3, recipe(micro_batch_size=24, backend="trl"))
    assert found[0] == f"training.advanced.microBatchSize: {largest}"


@pytest.mark.parametrize(("backend", "other"), [("trl", "unsloth"), ("unsloth", "trl")])
def test_only_the_other_backend_is_suggested(backend: str, other: str) -> None:
    path = ("advanced", "backend")
    assert suggestions._fields(recipe(backend=backend), BOTH)[path] == [other]
    assert path not in suggestions._fields(recipe(backend=backend), [backend])


def test_backend_is_suggested_if_it_suffices(llama3: shape.Shape) -> None:
    # The layers of Unsloth keep no separate outputs for DoRA.
    dora = Lora(use_dora=True)
    too_large = recipe(
        backend="trl", micro_batch_size=1, length=1920, gradient_checkpointing=False, lora=dora
    )
    found = budget.estimate(llama3, too_large, data=Data(), options=EstimateOptions(card=A10G))
    assert not found.training_fits
    assert "training.advanced.backend: unsloth" in alternatives(llama3, too_large)


def test_no_alternative_contains_another(llama3: shape.Shape) -> None:
    too_large = recipe(
        micro_batch_size=8,
        length=8192,
        gradient_checkpointing=False,
        lora=Lora(dropout=0.1, modules_to_save=["lm_head"]),
    )
    found = [set(text.split(" and ")) for text in alternatives(llama3, too_large)]
    assert found
    assert not [(one, other) for one in found for other in found if one < other]


def test_changes_are_combined_if_none_suffices(llama3: shape.Shape) -> None:
    too_large = recipe(micro_batch_size=8, length=32768, gradient_checkpointing=False)
    assert alternatives(llama3, too_large)[:1] == [
        "training.advanced.gradientCheckpointing: true and training.advanced.microBatchSize: 1"
    ]


def test_changes_that_do_not_affect_learning_come_first(llama3: shape.Shape) -> None:
    too_large = recipe(
        micro_batch_size=2, length=4096, gradient_checkpointing=False, lora=Lora(dropout=0.1)
    )
    found = alternatives(llama3, too_large)
    assert found[0] == "training.advanced.gradientCheckpointing: true"
    assert any("training.sequenceLength" in text for text in found[1:])
    assert alternatives(llama3, too_large, count=2) == [found[0], found[-1]]
    assert "placement" in found[-1], "a larger GPU is always named"


def test_padding_is_dropped_first(llama3: shape.Shape) -> None:
    padded = recipe(micro_batch_size=1, length=65536, pad_to_sequence_length=True, backend="trl")
    first = "training.advanced.padToSequenceLength: false"
    assert alternatives(llama3, padded, longest=300, packed=False)[0] == first
    packed = " ".join(alternatives(llama3, padded, longest=300, packed=True))
    assert "padToSequenceLength" not in packed


@pytest.mark.parametrize(("length", "shorter"), [(3000, [1500, 750]), (1024, [512])])
def test_shortest_suggested_sequence_has_512_tokens(length: int, shorter: list[int]) -> None:
    fields = suggestions._fields(recipe(length=length), BOTH)
    assert fields["sequence_length",] == shorter


def test_larger_gpu_is_suggested_by_node_label(llama3: shape.Shape) -> None:
    too_large = recipe(micro_batch_size=1, length=65536, pad_to_sequence_length=True, backend="trl")
    (gpu,) = [text for text in alternatives(llama3, too_large) if "placement" in text]
    assert gpu == ("placement.nodeSelector nvidia.com/gpu.product: NVIDIA-A40 (44.99 GiB)")


def served(llama3: shape.Shape, options: ServingSettings, card: cards.Card) -> Estimate:
    served_on = EstimateOptions(card=card, serving=options)
    return budget.estimate(llama3, recipe(), data=Data(), options=served_on)


def test_serving_alternatives(llama3: shape.Shape) -> None:
    options = ServingSettings(max_model_len=65536, gpu_memory_utilization=0.9)
    found = suggestions.for_serving(llama3, options, served(llama3, options, A10G), ALL)
    assert [text.split(":")[0] for text in found] == [
        "serving.maxModelLen",
        "placement.nodeSelector nvidia.com/gpu.product",
        "serving.enabled",
    ]
    assert suggestions.for_serving(llama3, options, served(llama3, options, A10G), 1) == found[:1]


def test_no_length_is_suggested_if_the_weights_do_not_fit(llama3: shape.Shape) -> None:
    options = ServingSettings(max_model_len=8192, gpu_memory_utilization=0.9)
    card = cards.CARDS["Tesla-T4"]
    found = suggestions.for_serving(llama3, options, served(llama3, options, card), ALL)
    assert len(found) == 2
    assert found[0].startswith("placement.nodeSelector nvidia.com/gpu.product: NVIDIA-")
    assert found[1] == "serving.enabled: false"


@pytest.mark.parametrize(("length", "suggested"), [(511, False), (512, True)])
def test_shortest_suggested_context_has_512_tokens(
    llama3: shape.Shape, monkeypatch: pytest.MonkeyPatch, length: int, suggested: bool
) -> None:
    monkeypatch.setattr(suggestions, "longest_that_fits", lambda *_: length)
    options = ServingSettings(max_model_len=65536, gpu_memory_utilization=0.9)
    found = suggestions.for_serving(llama3, options, served(llama3, options, A10G), ALL)
    assert (f"serving.maxModelLen: {length}" in found) == suggested
