"""``spec.training.lora`` of a FineTuneJob: the adapter."""

import re
from typing import Literal

from pydantic import field_validator

from finetune_api.markers import ApiModel, Edit, Rule, field, no_twice

LAYER_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

SavedModule = Literal["embed_tokens", "lm_head"]
"""Modules that can be trained in full: what no linear layer's adapter can take the place of."""


def _place(name: str) -> tuple[int, str]:
    return (ALL_LINEAR.index(name) if name in ALL_LINEAR else len(ALL_LINEAR), name)


class Lora(ApiModel):
    """The adapter, in PEFT's words."""

    r: int = field("Rank of the adapter.", 16, edit=Edit.RETRAIN, ge=1, le=512)
    alpha: int = field(
        "Scale of the adapter: its product is multiplied by alpha / r (alpha / sqrt(r) with "
        "rank-stabilised LoRA).",
        32,
        edit=Edit.RETRAIN,
        ge=1,
        le=4096,
    )
    dropout: float = field(
        "Dropout on the adapter's input. Above 0 it costs about two thirds more activation "
        "memory in each layer.",
        0.0,
        edit=Edit.RETRAIN,
        ge=0,
        lt=1,
    )
    target_modules: list[str] = field(
        "Linear layers that get an adapter, by the end of their name, or all-linear alone for "
        "every linear layer but the head.",
        ALL_LINEAR,
        edit=Edit.RETRAIN,
        min_length=1,
        max_length=32,
        rules=(
            no_twice("targetModules"),
            Rule(
                cel="!('all-linear' in self) || size(self) == 1",
                message="all-linear stands alone in targetModules: remove the other names",
                fails=lambda names: "all-linear" in names and len(names) > 1,
            ),
            Rule(
                cel="self.all(name, name.matches('^[A-Za-z0-9_.-]{1,128}$'))",
                message="targetModules takes names of layers, such as q_proj, or all-linear",
                fails=lambda names: not all(LAYER_NAME.fullmatch(name) for name in names),
            ),
            Rule(
                cel="!('lm_head' in self)",
                message="an adapter on lm_head would never be trained: remove it from "
                "targetModules; modulesToSave trains the head itself",
                fails=lambda names: "lm_head" in names,
            ),
            Rule(
                cel="!('embed_tokens' in self)",
                message="an adapter on embed_tokens cannot be merged: remove it from "
                "targetModules; modulesToSave trains the embedding itself",
                fails=lambda names: "embed_tokens" in names,
            ),
        ),
    )
    modules_to_save: list[SavedModule] | None = field(
        "Token embedding and head that are trained in full, beside the adapter, for words that the "
        "base hardly knows. Each takes as much memory as a base of its size in float32 with "
        "gradients and optimizer states. Not for bases whose head is their embedding.",
        None,
        edit=Edit.RETRAIN,
        builtin="none",
        min_length=1,
        max_length=2,
        rules=(no_twice("modulesToSave"),),
    )
    use_rslora: bool = field("Rank-stabilised LoRA.", False, edit=Edit.RETRAIN)
    use_dora: bool = field(
        "Weight-decomposed LoRA (DoRA): better at low ranks, slower to train.",
        False,
        edit=Edit.RETRAIN,
    )

    @field_validator("target_modules", "modules_to_save")
    @classmethod
    def _in_one_order(cls, names: list[str] | None) -> list[str] | None:
        """Put names into the built-in list's order, others behind: the order trains nothing else.

        So the built-in list's place in the hash of a revision stays as it was.
        """
        return None if names is None else sorted(names, key=_place)
