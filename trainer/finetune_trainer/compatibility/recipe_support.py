"""Checks whether the GPUs and the model family of a job support its recipe. Needs no weights."""

from collections.abc import Mapping
from typing import Any

from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.attention import families, kernels
from finetune_trainer.compatibility import liger, merged_dtype, multimodal
from finetune_trainer.devices import capabilities
from finetune_trainer.estimate.budget import EstimateOptions
from finetune_trainer.models import base_config


def check_cards(recipe: Training, options: EstimateOptions) -> None:
    """Raise InvalidSpec or UnsupportedGpu if a card of the job cannot compute the recipe."""
    for card in options.cards or (None,):
        capabilities.check_ahead(recipe, card)


def check_base(recipe: Training, options: EstimateOptions, config: Mapping[str, Any]) -> None:
    """Raise InvalidSpec if the recipe does not suit the base, or the base a card of the job.

    config: config.json of the base.
    """
    text = base_config.text_config(config)
    liger.check_family(recipe, text.get("model_type", config.get("model_type")))
    multimodal.check_serving(options, config)
    merged_dtype.check_cards(options, text)
    kernels.check_cards(recipe, options.cards, families.support(text))
