"""Attention over packed rows without a mask: PyTorch's GPU operation, with its CPU stand-in."""

import copy
from typing import Any

import pytest
import torch
from torch.nn.attention import varlen
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    masking_utils,
)
from transformers.models.llama import modeling_llama

from families import row_attention
from finetune_trainer.attention import packed_attention
from finetune_trainer.attention.kernels import VARLEN

LENGTHS = (5, 9, 1, 3)
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
}
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "one key-value head for each query head": (
        LlamaForCausalLM,
        LlamaConfig,
        {"num_key_value_heads": 4},
    ),
    "mistral with a window of 4 tokens": (MistralForCausalLM, MistralConfig, {"sliding_window": 4}),
    "mistral with a window longer than the rows": (
        MistralForCausalLM,
        MistralConfig,
        {"sliding_window": 64},
    ),
    "qwen3 with its own head size": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 32}),
}
PRECISION = 1e-6


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    packed_attention.register()
    monkeypatch.setattr(varlen, "varlen_attn", row_attention.attend)


def rows() -> list[torch.Tensor]:
    torch.manual_seed(3)
    return [torch.randint(0, 97, (length,)) for length in LENGTHS]


def batch(**extra: torch.Tensor) -> dict[str, Any]:
    ids = torch.cat(rows())[None]
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    flat = {"input_ids": ids, "position_ids": positions, **extra}
    return packed_attention.with_borders(lambda examples: flat)([])


def model(name: str) -> Any:
    torch.manual_seed(0)
    made, config, extra = MODELS[name]
    return made(config(**SIZES | extra))


def test_borders_are_those_of_the_rows() -> None:
    found = batch()
    assert found["cu_seq_lens_q"].tolist() == [0, 5, 14, 15, 18]
    assert found["cu_seq_lens_q"].dtype == torch.int32
    assert found["cu_seq_lens_k"].tolist() == found["cu_seq_lens_q"].tolist()
    assert (found["max_length_q"], found["max_length_k"]) == (9, 9)


def padded() -> dict[str, Any]:
    """Return the rows as a padded batch, with its mask and borders."""
    longest = max(LENGTHS)
    ids = torch.stack([torch.nn.functional.pad(row, (0, longest - len(row))) for row in rows()])
    mask = torch.stack([(torch.arange(longest) < length).long() for length in LENGTHS])
    flat = {"input_ids": ids, "attention_mask": mask}
    return packed_attention.with_borders(lambda examples: flat)([])


def test_padding_is_a_row_of_its_own() -> None:
    found = padded()
    assert found["cu_seq_lens_q"].tolist() == [0, 5, 9, 18, 19, 27, 30, 36]
    assert found["max_length_q"] == 9


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_padded_rows_are_those_of_each_row_alone(name: str) -> None:
    together = model(name).eval()
    with torch.no_grad():
        alone = [together(row[None], use_cache=False).logits[0] for row in rows()]
        together.set_attn_implementation(VARLEN)
        found = together(**padded(), use_cache=False).logits
    for logits, expected in zip(found, alone, strict=True):
        assert float((logits[: len(expected)] - expected).abs().max()) < PRECISION


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_packed_rows_are_those_of_each_row_alone(name: str) -> None:
    packed = model(name).eval()
    with torch.no_grad():
        alone = torch.cat([packed(row[None], use_cache=False).logits[0] for row in rows()])
        packed.set_attn_implementation(VARLEN)
        together = packed(**batch(), use_cache=False).logits[0]
        unpacked = packed(rows()[1][None], use_cache=False).logits[0]
    assert float((together - alone).abs().max()) < PRECISION
    assert float((unpacked - alone[5:14]).abs().max()) < PRECISION


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_sdpa_with_a_mask(name: str) -> None:
    base = model(name)
    flat = batch()
    labels = flat["input_ids"].masked_fill(flat["position_ids"] == 0, -100)
    found = {}
    for implementation in ("sdpa", VARLEN):
        copied = copy.deepcopy(base).train()
        copied.set_attn_implementation(implementation)
        copied.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        given = flat if implementation == VARLEN else batch()
        copied(**given, labels=labels, use_cache=False).loss.backward()
        found[implementation] = [each.grad for each in copied.parameters()]
    for one, other in zip(found["sdpa"], found[VARLEN], strict=True):
        assert one is not None
        assert other is not None
        assert float((one - other).abs().max()) < PRECISION


def test_no_mask_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[object] = []
    create = modeling_llama.create_causal_mask

    def recorded(*args: Any, **kwargs: Any) -> Any:
        built.append(create(*args, **kwargs))
        return built[-1]

    monkeypatch.setattr(modeling_llama, "create_causal_mask", recorded)
    packed = model("llama").eval()
    for given, tokens in ((batch(), sum(LENGTHS)), (padded(), max(LENGTHS))):
        for implementation in ("sdpa", VARLEN):
            packed.set_attn_implementation(implementation)
            packed(**given, use_cache=False)
        dense, none = built[-2:]
        assert isinstance(dense, torch.Tensor)
        assert dense.shape[-2:] == (tokens, tokens)
        assert none is None


@pytest.mark.parametrize(
    ("refused", "name"),
    [
        ({"attention_mask": torch.ones(1, 3)}, "mask"),
        ({"dropout": 0.1}, "dropout"),
        ({"softcap": 30.0}, "soft-capping"),
        # Attention sinks: a weight for each head.
        ({"s_aux": torch.zeros(2)}, "s_aux"),
        ({"position_bias": torch.zeros(2, 3, 3)}, "position_bias"),
        ({"argument_of_a_later_version": 1}, "argument_of_a_later_version"),
        ({"is_causal": False}, "attention to later tokens"),
        ({"value": torch.zeros(1, 2, 3, 16)}, "keys and values of another number or size"),
    ],
)
def test_request_beyond_the_operation_is_refused(refused: dict[str, Any], name: str) -> None:
    states = torch.zeros(1, 2, 3, 8)
    given = {"query": states, "key": states, "value": states, "attention_mask": None, **refused}
    with pytest.raises(NotImplementedError, match=f"varlen attention has no {name}"):
        packed_attention.attend(torch.nn.Module(), **given)


def test_head_that_is_too_large_is_refused() -> None:
    states = torch.zeros(1, 2, 3, 264)
    with pytest.raises(NotImplementedError, match="head size above 256"):
        packed_attention.attend(torch.nn.Module(), states, states, states, None)


def test_module_that_is_not_causal_is_refused() -> None:
    states, module = torch.zeros(1, 2, 3, 8), torch.nn.Module()
    module.is_causal = False
    with pytest.raises(NotImplementedError, match="attention to later tokens"):
        packed_attention.attend(module, states, states, states, None)


def test_arguments_without_an_effect_are_accepted() -> None:
    states = torch.ones(1, 2, 3, 8)
    given = {"position_ids": torch.arange(3), "use_cache": False, "s_aux": None}
    found, _ = packed_attention.attend(torch.nn.Module(), states, states, states, None, **given)
    assert found.shape == (1, 3, 2, 8)


@pytest.mark.parametrize(
    ("mask", "name"),
    [
        (masking_utils.bidirectional_mask_function, "bidirectional_mask_function"),
        (masking_utils.chunked_causal_mask_function(4, torch.zeros(1)), "chunked_overlay"),
        (
            masking_utils.or_masks(masking_utils.causal_mask_function, lambda *at: at[0] > 0),
            "or_mask",
        ),
        (
            masking_utils.and_masks(masking_utils.causal_mask_function, lambda *at: at[0] > 0),
            "lambda",
        ),
    ],
)
def test_mask_of_another_form_is_refused(mask: Any, name: str) -> None:
    with pytest.raises(NotImplementedError, match=f"no mask of the form .*{name}"):
        packed_attention.no_mask(mask_function=mask)


def test_causal_masks_of_packed_rows_and_windows_are_not_built() -> None:
    rows = masking_utils.packed_sequence_mask_function(torch.zeros(1, 3))
    for mask in (
        masking_utils.causal_mask_function,
        masking_utils.sliding_window_causal_mask_function(4),
        masking_utils.and_masks(masking_utils.sliding_window_causal_mask_function(4), rows),
    ):
        packed_attention.no_mask(mask_function=mask)
