"""The table of model families is what the tiny models compute: one family of each kind."""

from typing import Any

import pytest

from families import measure, page, tiny
from finetune_trainer.attention import families, layers
from finetune_trainer.attention.families import Family

KINDS = {
    "plain attention": "llama",
    "sliding window": "gemma3_text",
    "soft-capping": "gemma2",
    "attention sinks": "gpt_oss",
    "linear attention": "qwen3_next",
    "convolution": "lfm2",
    "ALiBi": "bloom",
    "chunked attention": "llama4_text",
    "borders that do not reach the attention": "stablelm",
    "masks without the positions": "opt",
    "keys and values of different sizes": "deepseek_v3",
    "tokens that see later tokens": "bert",
}


@pytest.mark.parametrize("family", KINDS.values(), ids=KINDS)
def test_measurement_is_that_of_the_table(family: str) -> None:
    assert measure.row(family) == families.table().families[family]


def test_table_has_all_families_of_transformers() -> None:
    assert sorted(families.table().families) == tiny.names()


def test_page_is_that_of_the_table() -> None:
    assert page.check() == 0


@pytest.mark.parametrize(
    ("row", "attention", "packing"),
    [
        (
            Family(padded=("varlen", "sdpa", "eager"), packed=("varlen", "sdpa", "eager")),
            "yes",
            "yes",
        ),
        (Family(padded=("sdpa", "eager"), packed=()), "SDPA and eager only", "unpacked only"),
        (
            Family(padded=("varlen", "sdpa", "eager"), packed=("varlen",)),
            "yes",
            "FlashAttention-2 only",
        ),
        (Family(rejected="it is odd"), "rejected: it is odd", "–"),
        (Family(unmeasured="no weights"), "not measured", "unpacked only"),
    ],
)
def test_cells_of_the_page(row: Family, attention: str, packing: str) -> None:
    assert (page.attention(row), page.packing(row)) == (attention, packing)


@pytest.fixture
def built(request: pytest.FixtureRequest) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    family, changed = request.param
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(tiny.config(family, **changed))


@pytest.mark.parametrize(
    ("built", "recurrent"),
    [
        (("llama", {}), False),
        (("gpt2", {}), False),
        (("qwen3_moe", {}), False),
        (("qwen3_next", {}), True),
        (("lfm2", {}), True),
        (("falcon_h1", {}), True),
        (("recurrent_gemma", {}), True),
        (("rwkv", {}), True),
        (("minimax", {}), True),
    ],
    indirect=["built"],
)
def test_layers_that_are_not_attention_are_found_in_the_model(built: Any, recurrent: bool) -> None:
    assert bool(layers.inspect(built).recurrent) is recurrent


@pytest.mark.parametrize(
    ("built", "largest"),
    [
        (("llama", {"head_dim": 32}), 32),
        (("gpt2", {}), 16),
        # Only the layers with full attention have the larger heads.
        (("gemma4_text", {"head_dim": 16, "global_head_dim": 512}), 512),
    ],
    indirect=["built"],
)
def test_largest_head_of_any_layer_is_found_in_the_model(built: Any, largest: int) -> None:
    assert layers.inspect(built).largest_head == largest


def test_probe_detects_a_kernel_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement of a family whose packed rows see each other is not that of the table."""
    from finetune_trainer.attention import packed_attention

    monkeypatch.setattr(packed_attention, "with_borders", lambda collate: collate)
    found = measure.measure("llama")
    assert found.packed == {"varlen": "the logits differ", "sdpa": "", "eager": ""}
    assert not any(found.padded.values())
