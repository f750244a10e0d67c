"""The data type of the merged model, and the cards that cannot compute in it."""

from dataclasses import replace

import pytest

from finetune_api.contracts.stage_request import ServingSettings
from finetune_trainer.compatibility import merged_dtype
from finetune_trainer.devices import cards
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.estimate.budget import EstimateOptions

T4, A10G = (cards.CARDS[name] for name in ("Tesla-T4", "NVIDIA-A10G"))


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("llama", "float16"),
        ("gemma", "float16"),
        # The table _FLOAT16_NOT_SUPPORTED_MODELS in vllm/config/model.py.
        ("gemma2", "bfloat16"),
        ("gemma3", "bfloat16"),
        ("gemma3_text", "bfloat16"),
        ("glm4", "bfloat16"),
    ],
)
def test_auto_dtype_of_families_that_vllm_refuses_in_float16(family: str, dtype: str) -> None:
    assert merged_dtype.resolve("auto", {"model_type": family}) == dtype
    assert merged_dtype.resolve("float16", {"model_type": family}) == "float16"


@pytest.mark.parametrize(
    ("written", "largest", "dtype"),
    [
        ("auto", None, "float16"),
        ("auto", 16384, "float16"),
        ("auto", 16385, "bfloat16"),
        ("float16", 16385, "float16"),
        ("bfloat16", 1, "bfloat16"),
    ],
)
def test_auto_dtype_depends_on_the_largest_activation(
    written: str, largest: int | None, dtype: str
) -> None:
    found = merged_dtype.resolve(written, {"model_type": "llama"}, largest_activation=largest)
    assert found == dtype


@pytest.mark.parametrize(
    ("dtype", "merges", "family", "found", "said"),
    [
        (
            "bfloat16",
            True,
            "llama",
            [T4],
            r"\(set by merge.dtype or .* set merge.dtype to float16, or use",
        ),
        (
            "bfloat16",
            False,
            "llama",
            [A10G, T4],
            r"\(set by serving.dtype or .*Tesla-T4 .compute c",
        ),
        (
            "auto",
            True,
            "gemma2",
            [T4],
            r"not support model family gemma2 in .*: use",
        ),
        ("auto", False, "gemma2", [T4], None),
        ("auto", True, "llama", [T4], None),
        ("float16", True, "gemma2", [T4], None),
        ("bfloat16", True, "llama", [A10G], None),
        ("bfloat16", True, "llama", [], None),
    ],
)
def test_bfloat16_is_refused_for_cards_without_it(
    dtype: str, merges: bool, family: str, found: list[cards.Card], said: str | None
) -> None:
    options = EstimateOptions(
        card=found[0] if found else None,
        others=tuple(found[1:]),
        serving=ServingSettings(max_model_len=None, gpu_memory_utilization=0.9, dtype=dtype),
        merges=merges,
    )
    config = {"model_type": family}
    if said is None:
        merged_dtype.check_cards(options, config)
        return
    with pytest.raises(InvalidSpec, match=said):
        merged_dtype.check_cards(options, config)
    merged_dtype.check_cards(replace(options, serving=None), config)
