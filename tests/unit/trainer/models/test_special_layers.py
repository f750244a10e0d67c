"""Layers of Mamba that cannot have an adapter, or cannot be quantized."""

import pytest

from finetune_trainer.errors import InvalidSpec
from finetune_trainer.models import special_layers


def test_other_families_have_none() -> None:
    assert special_layers.not_quantized("llama") is None
    assert special_layers.not_adapted("llama") == frozenset()
    special_layers.check_targets("llama", ["q_proj", "out_proj"], source="demo")


def test_layers_whose_weight_the_model_uses_itself_stay_in_16_bits() -> None:
    assert special_layers.not_quantized("falcon_mamba") == ["lm_head", "dt_proj"]
    assert special_layers.not_adapted("falcon_mamba") == {"dt_proj", "out_proj"}
    assert special_layers.not_quantized("falcon_h1") is None


@pytest.mark.parametrize("name", ["out_proj", "mamba.out_proj"])
def test_layer_that_cannot_have_an_adapter_is_refused_as_a_target(name: str) -> None:
    with pytest.raises(
        InvalidSpec,
        match=r"targetModules contains (mamba\.)?out_proj, but .* demo \(family falcon_h1\) cannot",
    ):
        special_layers.check_targets("falcon_h1", ["q_proj", name], source="demo")
    special_layers.check_targets("falcon_h1", ["all-linear"], source="demo")
