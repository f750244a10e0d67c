"""The table of model families: what it says about a config.json."""

import importlib.metadata
import re
from typing import Any

import pytest

from finetune_trainer.attention import families
from finetune_trainer.attention.families import Family, Table, support
from finetune_trainer.attention.kernels import ALL, Support
from finetune_trainer.errors import InvalidSpec

LLAMA: dict[str, Any] = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32}
NESTED: dict[str, Any] = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}


def test_table_is_that_of_the_pinned_transformers() -> None:
    assert families.table().transformers == importlib.metadata.version("transformers")


@pytest.mark.parametrize(
    "family", ["llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gemma", "gemma3_text", "phi3"]
)
def test_frequent_families_use_all_kernels_and_are_packed(family: str) -> None:
    assert support({"model_type": family}) == ALL


@pytest.mark.parametrize(
    ("family", "padded", "packed"),
    [
        # Attention sinks; the mask of the first family is built without the positions of the rows.
        ("gpt_oss", ("eager",), ()),
        ("granite_swa", ("eager",), ("eager",)),
        # Layers that are not attention.
        ("qwen3_next", ("varlen", "sdpa", "eager"), ()),
        ("lfm2", ("varlen", "sdpa", "eager"), ()),
        ("falcon_h1", ("varlen", "sdpa", "eager"), ()),
        ("qwen3_5_text", ("varlen", "sdpa", "eager"), ()),
        # ALiBi, in a model with attention code of its own.
        ("bloom", ("eager",), ()),
        # Attention code of their own; the last two keep packed rows apart.
        ("falcon", ("eager",), ()),
        ("mpt", ("eager",), ()),
        ("gptj", ("eager",), ("eager",)),
        ("gpt_neo", ("eager",), ("eager",)),
        # Its layers do not pass the borders of the rows on.
        ("stablelm", ("varlen", "sdpa", "eager"), ("sdpa", "eager")),
        # Its mask is built without the positions of the rows.
        ("opt", ("varlen", "sdpa", "eager"), ("varlen",)),
    ],
)
def test_other_families_use_what_is_correct(
    family: str, padded: tuple[str, ...], packed: tuple[str, ...]
) -> None:
    found = support({"model_type": family})
    assert (found.padded, found.packed, found.unknown) == (padded, packed, False)
    assert found.reason.startswith(f"model family {family}: ")


@pytest.mark.parametrize(
    ("config", "version", "reason"),
    [
        ({"model_type": "new"}, None, "not tested with model family new"),
        (LLAMA, "5.99.0", "not tested with transformers 5.99.0"),
        (
            {"model_type": "qwen3", "layer_types": ["full_attention", "ring"]},
            None,
            "not tested with layers of type ring, which config.json of the base .qwen3. contains",
        ),
        (
            {**NESTED, "text_config": {"model_type": "gemma3_text", "layer_types": ["conv"]}},
            None,
            "layers of type conv",
        ),
    ],
)
def test_unknown_model_trains_with_sdpa_and_without_packing(
    config: dict[str, Any], version: str | None, reason: str
) -> None:
    found = support(config, transformers=version)
    assert (found.padded, found.packed, found.unknown) == (("sdpa", "eager"), (), True)
    assert re.search(reason, found.reason)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama", "head_dim": 512},
        {"model_type": "gemma4_text", "head_dim": 256, "global_head_dim": 512},
        {**NESTED, "text_config": {"global_head_dim": 512}},
        {"model_type": "llama", "hidden_size": 2048, "num_attention_heads": 4},
    ],
)
def test_large_heads_exclude_flash_attention(config: dict[str, Any]) -> None:
    found = support(config)
    assert found.padded == found.packed == ("sdpa", "eager")
    assert "heads of at most 256 values, but the base has heads of 512" in found.reason


@pytest.mark.parametrize(
    ("config", "capped"),
    [
        ({"attention_dropout": 0.0, "attn_logit_softcapping": None}, False),
        ({}, False),
        ({"attn_logit_softcapping": 50.0}, True),
        ({"attention_dropout": 0.1}, True),
        ({"attn_pdrop": 0.1}, True),
        ({"attention_probs_dropout_prob": 0.1}, True),
        ({"hidden_dropout": 0.1, "resid_pdrop": 0.1}, False),
        ({"attn_config": {"attn_pdrop": 0.1}}, True),
        ({"id2label": {0: "LABEL_0"}}, False),
        ({"text_config": {"attn_logit_softcapping": 50.0}}, True),
        ({"text_config": {"attention_dropout": 0.1}}, True),
        ({"vision_config": {"attention_dropout": 0.1}}, False),
    ],
)
def test_soft_capping_and_attention_dropout_are_read_from_the_config(
    config: dict[str, Any], capped: bool
) -> None:
    assert families.is_capped(config) is capped


def test_soft_capping_that_is_on_by_default_counts() -> None:
    assert support({"model_type": "gemma2"}).capped
    assert not support({"model_type": "gemma2", "attn_logit_softcapping": None}).capped
    assert not support(LLAMA).capped


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bert"},
        {"model_type": "bert", "is_decoder": False},
        {"model_type": "xlnet"},
        {"model_type": "gemma3_text", "use_bidirectional_attention": True},
        {**NESTED, "text_config": {"use_bidirectional_attention": True}},
    ],
)
def test_model_whose_tokens_see_later_tokens_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec, match=r"cannot be trained: its tokens see later"):
        support(config)


def test_decoder_of_an_encoder_family_is_accepted() -> None:
    assert support({"model_type": "bert", "is_decoder": True}).padded


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "llama4_text"}, "transformers does not name its decoder"),
        (
            {"model_type": "mllama", "text_config": {"model_type": "mllama_text_model"}},
            "transformers has no causal language model of its text model",
        ),
    ],
)
def test_family_that_the_libraries_cannot_train_is_refused(
    config: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidSpec, match=f"cannot be trained: {reason}"):
        support(config)


def test_rejected_family_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Table(transformers="1", families={"odd": Family(rejected="it is odd")})
    monkeypatch.setattr(families, "table", lambda: rows)
    with pytest.raises(InvalidSpec, match="family odd, which cannot be trained: it is odd"):
        support({"model_type": "odd"})


def test_family_that_could_not_be_measured_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Table(transformers="1", families={"odd": Family(unmeasured="it is odd")})
    monkeypatch.setattr(families, "table", lambda: rows)
    found = support({"model_type": "odd"})
    assert found == Support(padded=("sdpa", "eager"), packed=(), reason=found.reason, unknown=True)
