"""``spec.training.lora`` of a FineTuneJob: the adapter."""

from typing import Literal

from pydantic import field_validator

from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import Rule, each_matches, lacks, unique

LAYER_NAME = r"^[A-Za-z0-9_.-]{1,128}$"
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SavedModule = Literal["embed_tokens", "lm_head"]
"""Modules that can be trained in full because no adapter of a linear layer can replace them."""


def _position(name: str) -> tuple[int, str]:
    return (ALL_LINEAR.index(name) if name in ALL_LINEAR else len(ALL_LINEAR), name)


class Lora(ApiModel):
    """The adapter. Names and meanings follow PEFT's LoraConfig."""

    r: int = field("Rank of the adapter.", 16, edit=Edit.RETRAIN, ge=1, le=512)
    alpha: int = field(
        "Scaling of the adapter. The output of the adapter is multiplied by alpha / r. If "
        "useRslora is true, the factor is alpha / sqrt(r) instead.",
        32,
        edit=Edit.RETRAIN,
        ge=1,
        le=4096,
    )
    dropout: float = field(
        "Dropout probability for the input of the adapter. With a value above 0, each layer "
        "needs about two thirds more activation memory.",
        0.0,
        edit=Edit.RETRAIN,
        ge=0,
        lt=1,
    )
    target_modules: list[str] = field(
        'Name suffixes of the linear layers that get an adapter. The single entry "all-linear" '
        "selects every linear layer except the output head (lm_head).",
        ALL_LINEAR,
        edit=Edit.RETRAIN,
        min_length=1,
        max_length=32,
        rules=(
            unique("targetModules"),
            Rule(
                cel="!('all-linear' in self) || size(self) == 1",
                message="all-linear in targetModules selects every linear layer: remove the other "
                "names",
                fails=lambda names: "all-linear" in names and len(names) > 1,
            ),
            each_matches(
                LAYER_NAME,
                "write targetModules as names of layers, such as q_proj, or as the single entry "
                "all-linear",
            ),
            lacks(
                "lm_head",
                "an adapter on lm_head would not be trained: remove lm_head from targetModules. To "
                "train the head, add lm_head to modulesToSave",
            ),
            lacks(
                "embed_tokens",
                "an adapter on embed_tokens cannot be merged: remove embed_tokens from "
                "targetModules. To train the embedding, add embed_tokens to modulesToSave",
            ),
        ),
    )
    modules_to_save: list[SavedModule] | None = field(
        'Modules to train in full in addition to the adapter: "embed_tokens" (the token '
        'embedding) and "lm_head" (the output head). List both if the rows contain tokens that '
        "were rare in the training of the base model. Each module needs GPU memory for float32 "
        "weights, gradients and optimizer states. Models with tied embeddings are not supported.",
        None,
        edit=Edit.RETRAIN,
        builtin="none",
        min_length=1,
        max_length=2,
        rules=(unique("modulesToSave"),),
    )
    use_rslora: bool = field("Use rank-stabilized LoRA.", False, edit=Edit.RETRAIN)
    use_dora: bool = field(
        "Use weight-decomposed LoRA (DoRA). DoRA trains better than LoRA at low ranks, but is "
        "slower.",
        False,
        edit=Edit.RETRAIN,
    )

    @field_validator("target_modules", "modules_to_save")
    @classmethod
    def _sorted(cls, names: list[str] | None) -> list[str] | None:
        """Return the names in the order of the built-in list, followed by all others.

        The order does not matter for training, so it must not matter for the revision's hash.
        """
        return None if names is None else sorted(names, key=_position)
