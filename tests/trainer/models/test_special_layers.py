"""The layers that get an adapter are those that PEFT accepts as they are, in every family."""

from typing import Any

import peft
import pytest
import torch
from peft.utils import transformers_weight_conversion as conversion
from transformers import AutoModelForCausalLM

from families import tiny
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.models import architecture, special_layers, tensor_names
from finetune_trainer.training.backends import library_arguments


def built(family: str) -> Any:
    """Return a tiny model without weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(tiny.config(family))


def adapted(family: str) -> Any:
    """Return a tiny model with an adapter in all linear layers."""
    model = built(family)
    recipe = Training.model_validate({"lora": {"targetModules": ["all-linear"]}})
    return peft.get_peft_model(model, library_arguments.lora_config(recipe, model))


@pytest.mark.parametrize(
    "family", ["llama", "qwen3_moe", "mixtral", "phimoe", "falcon_h1", "falcon_mamba"]
)
def test_adapter_has_pairs_of_matrices_for_linear_layers_only(family: str) -> None:
    model = adapted(family)
    config = model.peft_config["default"]
    assert not config.target_parameters
    names = {name.split(".")[-2] for name in peft.get_peft_model_state_dict(model)}
    assert names == {"lora_A", "lora_B"}
    layers = {name.split(".")[-3] for name in peft.get_peft_model_state_dict(model)}
    assert layers
    assert not layers & special_layers.not_adapted(family)


def test_loading_the_adapter_again_converts_nothing() -> None:
    saved = adapted("qwen3_moe").peft_config["default"]
    model = built("qwen3_moe")
    again = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=list(saved.target_modules))
    assert not peft.get_peft_model(model, again).peft_config["default"].target_parameters


def test_names_of_experts_are_those_that_peft_converts() -> None:
    names = conversion._MOE_TARGET_MODULE_MAPPING
    assert {family: set(each) for family, each in special_layers.EXPERTS.items()} == {
        family: names[kind].keys()
        for family, kind in conversion._MODEL_TO_CONVERSION_PATTERN.items()
        if kind in names
    }


@pytest.mark.parametrize("family", sorted(special_layers.REFUSED))
def test_layers_of_mamba_are_those_that_peft_refuses(family: str) -> None:
    model = built(family)
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["out_proj"])
    with pytest.raises(ValueError, match="'out_proj' is incompatible with Mamba"):
        peft.get_peft_model(model, config)


def test_routers_that_are_linear_layers_get_no_adapter() -> None:
    names = special_layers.adapted(built("phimoe"))
    assert {name.rpartition(".")[2] for name in names} == {"q_proj", "k_proj", "v_proj", "o_proj"}


def test_layers_of_falcon_are_quantized() -> None:
    special_layers.use_plain_linear("falcon")
    names = {
        name.rpartition(".")[2]
        for name, module in built("falcon").named_modules()
        if special_layers.is_quantized(module)
    }
    assert names == {
        "query_key_value",
        "dense",
        "dense_h_to_4h",
        "dense_4h_to_h",
        "lm_head",
    }


def test_model_without_a_layer_to_quantize_is_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(2, 2))
    model.get_output_embeddings = lambda: None
    with pytest.raises(InvalidSpec, match="cannot quantize model demo, because Sequential"):
        architecture._require_quantizable(model, source="demo")


def test_model_with_transposed_weights_is_refused() -> None:
    model = built("gpt2")
    names = tensor_names.identity(model.state_dict())
    with pytest.raises(InvalidSpec, match=r"transposed weight of transformer\.h\.0\.attn\.c_attn"):
        architecture._require_mergeable(model, names, source="demo")


@pytest.mark.parametrize(
    ("family", "lacks"), [("granitemoe", True), ("mixtral", False), ("llama", False)]
)
def test_loss_of_routers_is_turned_off_where_the_libraries_cannot_compute_it(
    family: str, lacks: bool
) -> None:
    assert library_arguments.lacks_router_loss(tiny.config(family)) is lacks
