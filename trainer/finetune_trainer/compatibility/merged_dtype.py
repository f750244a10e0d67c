"""Chooses the data type of the merged model, and checks that the cards of the job support it.

The choice depends on the model only: a build is the same on every card.
"""

from collections.abc import Mapping
from typing import Any

from finetune_trainer.errors import InvalidSpec
from finetune_trainer.estimate.budget import EstimateOptions

BFLOAT16_FAMILIES = {"gemma2", "gemma3", "gemma3_text", "glm4"}
"""Families that vLLM refuses in float16, because their activations overflow."""


LARGEST_FOR_FLOAT16 = 2**14
"""Largest recorded activation with which float16 is selected. Float16 ends at 65,504, and a request
may cause larger activations than the rows of the reference."""


def resolve(
    wanted: str, config: Mapping[str, Any], *, largest_activation: int | None = None
) -> str:
    """Return the dtype of the merged model.

    wanted: ``merge.dtype``. largest_activation: of the tuned model, None if it was not recorded.
    """
    if wanted != "auto":
        return wanted
    overflows = (largest_activation or 0) > LARGEST_FOR_FLOAT16
    refused = config.get("model_type") in BFLOAT16_FAMILIES
    return "bfloat16" if refused or overflows else "float16"


def check_cards(options: EstimateOptions, config: Mapping[str, Any]) -> None:
    """Raise InvalidSpec, during data preparation, if vLLM would not start because of bfloat16.

    config: config.json of the base. The dtype ``auto`` of an adapter is not checked: vLLM then
    selects one that the card supports.
    """
    if options.serving is None:
        return
    written = options.serving.dtype
    field = "merge.dtype" if options.merges else "serving.dtype"
    cause = f"set by {field} or by the chart value serving.dtype"
    remediation = f"set {field} to float16, or "
    if written == "auto" and options.merges and config.get("model_type") in BFLOAT16_FAMILIES:
        written, remediation = "bfloat16", ""
        cause = f"vLLM does not support model family {config['model_type']} in float16"
    old = next((card for card in options.cards if not card.is_ampere), None)
    if written == "bfloat16" and old is not None:
        capability = ".".join(map(str, old.capability))
        raise InvalidSpec(
            f"the serving pods compute in bfloat16 ({cause}), but {old.name} (compute capability "
            f"{capability}) does not support bfloat16: {remediation}use spec.placement to select "
            "an Ampere or later card"
        )
