"""What jobs can do with the text model of a multimodal base, by its config.json."""

from typing import Any

import pytest

from finetune_api.contracts.stage_request import ServingSettings
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.compatibility import multimodal, recipe_support
from finetune_trainer.compatibility.backend_choice import Facts, choose
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.estimate.budget import EstimateOptions
from finetune_trainer.models.base_config import text_config

SERVES = EstimateOptions(serving=ServingSettings(max_model_len=None, gpu_memory_utilization=0.9))
SERVES_ADAPTER = EstimateOptions(serving=SERVES.serving, merges=False)
GEMMA3 = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}
UNIFIED = {"model_type": "gemma4_unified", "text_config": {"model_type": "gemma4_unified_text"}}


@pytest.mark.parametrize(
    ("options", "config"),
    [
        (SERVES, GEMMA3),
        (SERVES, {"model_type": "gemma3_text"}),
        (SERVES_ADAPTER, {"model_type": "gemma3_text"}),
        (EstimateOptions(merges=False), GEMMA3),
        (EstimateOptions(), UNIFIED),
    ],
)
def test_text_models_that_vllm_serves_and_jobs_without_serving_are_accepted(
    options: EstimateOptions, config: dict[str, Any]
) -> None:
    multimodal.check_serving(options, config)


@pytest.mark.parametrize(
    ("options", "config", "cause", "remediation"),
    [
        (SERVES_ADAPTER, GEMMA3, "serving.mode is adapter", "set serving.mode to merged"),
        (SERVES, UNIFIED, "type gemma4_unified_text, which vLLM", "set serving.enabled to false"),
    ],
)
def test_other_text_models_are_refused(
    options: EstimateOptions, config: dict[str, Any], cause: str, remediation: str
) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        recipe_support.check_base(Training(), options, config)
    assert cause in str(refusal.value)
    assert remediation in str(refusal.value)


def test_backend_is_chosen_by_the_text_model() -> None:
    image = {"trl": "1", "unsloth": "1"}
    facts = Facts(recipe=Training(), image=image)
    found = choose(facts.of_base(GEMMA3))
    assert (found.name, found.reason) == (
        "trl",
        "Unsloth does not load the text model of a multimodal base alone",
    )
    assert choose(facts.of_base(text_config(GEMMA3))).name == "unsloth"


def test_text_config_of_a_text_model_is_its_config() -> None:
    plain = {"model_type": "llama", "tie_word_embeddings": False}
    assert text_config(plain) is plain
    assert text_config({**GEMMA3, **{"tie_word_embeddings": False}}) == {
        "model_type": "gemma3_text",
        "tie_word_embeddings": False,
    }
