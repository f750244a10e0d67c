"""Checks what a job does with a multimodal base, of which it trains the text model alone.

Needs no weights, only config.json of the base.
"""

from collections.abc import Mapping
from typing import Any

from finetune_trainer.compatibility import vllm_support
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.estimate.budget import EstimateOptions
from finetune_trainer.models import base_config


def check_serving(options: EstimateOptions, config: Mapping[str, Any]) -> None:
    """Raise InvalidSpec if the serving pods cannot serve the text model of a multimodal base."""
    if options.serving is None or not base_config.is_multimodal(config):
        return
    whole, text = config["model_type"], base_config.text_config(config).get("model_type")
    if not options.merges:
        raise InvalidSpec(
            f"serving.mode is adapter, but the base is of the multimodal family {whole}. The job "
            "trains only its text model, and vLLM would not find the layers of this adapter in the "
            "whole model: set serving.mode to merged"
        )
    if not vllm_support.has_implementation(str(text)):
        raise InvalidSpec(
            f"serving.enabled is true, but the base is of the multimodal family {whole}. The job "
            f"trains only its text model, of type {text}, which vLLM does not serve alone: set "
            "serving.enabled to false, or choose another base"
        )
