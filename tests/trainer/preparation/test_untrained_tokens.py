"""Rows with tokens on which the base was never trained are rejected before the training."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.support.trainer import tiny
from tests.support.trainer.hub import Hub
from tests.trainer.conftest import MakeWorkshop

from finetune_trainer.preparation import untrained_tokens

END, START = 0, 1
"""The tokens <|im_end|> and <|im_start|>."""
IN_FULL = {"lora": {"modulesToSave": ["embed_tokens", "lm_head"]}}


def base(folder: Path, *, equal_heads: bool = True, tied: bool = False) -> Path:
    """Write a model whose embedding of two tokens is zero."""
    made = tiny.model(folder, shard="10GB", tied=tied)
    tensors = load_file(made / "model.safetensors")
    tensors["model.embed_tokens.weight"][[END, START]] = 0
    if equal_heads and not tied:
        tensors["lm_head.weight"][START] = tensors["lm_head.weight"][END] + 1e-4
    save_file(tensors, made / "model.safetensors", {"format": "pt"})
    return made


@pytest.mark.parametrize(
    ("equal_heads", "tied", "used", "found"),
    [
        (True, False, {START, END, 9}, [END, START]),
        (True, False, {START, 9}, [START]),
        (True, False, {9}, []),
        # A token that only ends rows has no trained embedding, but a trained head.
        (False, False, {START, END}, []),
        (False, True, {START, 9}, [START]),
    ],
)
def test_tokens_without_embedding_and_own_head_are_found(
    tmp_path: Path, equal_heads: bool, tied: bool, used: set[int], found: list[int]
) -> None:
    folder = base(tmp_path / "base", equal_heads=equal_heads, tied=tied)
    assert untrained_tokens.find(folder, used) == found


def test_untrained_tokens_are_refused_unless_embedding_and_head_are_trained(
    make: MakeWorkshop, hub: Hub, tmp_path: Path
) -> None:
    source = hub.add("model", "demo/untrained", base(tmp_path / "base"))
    ended = make(model={"source": source}).run("prepare")
    assert (ended.code, ended.result["reason"]) == (64, "InvalidSpec")
    assert (
        "contain tokens on which model demo/untrained was never trained: <|im_end|>"
        in ended.message
    )
    assert "set training.lora.modulesToSave to [embed_tokens, lm_head]" in ended.message
    make(model={"source": source}, training=IN_FULL).succeed("prepare")
