"""Rejects training rows with tokens on which the base was never trained."""

from pathlib import Path

import numpy as np

from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.data.load_tokenizer import load_tokenizer
from finetune_trainer.data.token_store import Tokens
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.preparation import untrained_tokens

TRAINED_IN_FULL = {"embed_tokens", "lm_head"}
SHOWN = 5
"""Maximum number of tokens that the message names."""


def check(base: Path, rows: Tokens, recipe: Training, *, source: str) -> None:
    """Raise InvalidSpec if rows contain tokens that an adapter of this base cannot learn.

    They can be learned if embedding and head are trained in full.
    """
    if set(recipe.lora.modules_to_save or ()) == TRAINED_IN_FULL:
        return
    untrained = untrained_tokens.find(base, set(np.unique(rows.input_ids).tolist()))
    if not untrained:
        return
    names = load_tokenizer(base).convert_ids_to_tokens(untrained[:SHOWN])
    more = f" and {len(untrained) - SHOWN} more" if len(untrained) > SHOWN else ""
    raise InvalidSpec(
        f"the training rows contain tokens on which model {source} was never trained: "
        f"{', '.join(names)}{more}. An adapter cannot learn them: choose the instruct version of "
        "the model, set dataset.chatTemplate to a template without these tokens, or set "
        "training.lora.modulesToSave to [embed_tokens, lm_head]"
    )
