"""How many adapters fit a card: sizes that PEFT prints, and the limits of an endpoint."""

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.trainer import shapes

from finetune_api.contracts.stage_request import EndpointSettings
from finetune_api.v1alpha1.endpoints.spec import MOST_ADAPTERS, FineTuneEndpointSpec
from finetune_trainer.devices.cards import CARDS
from finetune_trainer.estimate import endpoint, endpoint_verdict
from finetune_trainer.estimate.endpoint import EndpointMemory
from finetune_trainer.estimate.shape import Shape, read

A10G = CARDS["NVIDIA-A10G"]


def spec(**lora: int) -> EndpointSettings:
    document = {"model": {"source": "hf://acme/base"}, "lora": lora, "maxModelLen": 8192}
    return EndpointSettings.of(FineTuneEndpointSpec.model_validate(document))


def shape(config: dict[str, Any]) -> Shape:
    found = read(config)
    assert found is not None
    return found


def memory(config: dict[str, Any], **lora: int) -> EndpointMemory:
    found = endpoint.endpoint(shape(config), spec(**lora))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("config", "rank", "parameters"),
    [
        # PEFT's print_trainable_parameters with all linear layers.
        (shapes.LLAMA3_8B, 16, 41_943_040),
        (shapes.LLAMA3_8B, 8, 20_971_520),
        (shapes.LLAMA2_7B, 16, 39_976_960),
    ],
)
def test_a_slot_has_the_size_of_an_adapter_in_16_bits(
    config: dict[str, Any], rank: int, parameters: int
) -> None:
    assert memory(config, maxRank=rank).slot == 2 * parameters


def test_vllm_reserves_the_next_higher_rank_on_the_gpu_only() -> None:
    low, high = (memory(shapes.LLAMA3_8B, maxRank=rank) for rank in (24, 32))
    assert low.slot == high.slot
    assert low.host * 32 == high.host * 24


def test_there_is_one_slot_more_than_models_that_generate() -> None:
    assert memory(shapes.LLAMA3_8B, maxAdapters=20).slots == 21
    assert memory(shapes.LLAMA3_8B, maxAdapters=20, maxActive=4).slots == 5
    # Two revisions of each model, and the adapter with which the base answers.
    found = memory(shapes.LLAMA3_8B, maxAdapters=20)
    assert found.host == 41 * found.slot


def test_the_most_adapters_fit_and_one_more_does_not() -> None:
    base = shape(shapes.LLAMA3_8B)
    most = endpoint.most_adapters(base, spec(), A10G)
    assert 8 < most < MOST_ADAPTERS
    assert memory(shapes.LLAMA3_8B, maxAdapters=most).fits(A10G)
    assert not memory(shapes.LLAMA3_8B, maxAdapters=most + 1).fits(A10G)


def test_a_higher_rank_leaves_room_for_fewer() -> None:
    base = shape(shapes.LLAMA3_8B)
    counts = [
        endpoint.most_adapters(base, spec(maxRank=rank), A10G) for rank in (8, 16, 32, 64, 128)
    ]
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) == len(counts)


def test_with_max_active_the_number_of_adapters_needs_no_gpu_memory() -> None:
    base = shape(shapes.LLAMA3_8B)
    few = spec(maxAdapters=4, maxActive=4)
    assert endpoint.most_adapters(base, few, A10G) == MOST_ADAPTERS


def test_a_base_that_is_too_large_leaves_room_for_none() -> None:
    base = shape(shapes.LLAMA3_8B)
    assert endpoint.most_adapters(base, spec(), CARDS["Tesla-T4"]) == 0
    assert memory(shapes.LLAMA3_8B).cached_tokens(CARDS["Tesla-T4"]) <= 0


def test_the_cache_takes_what_is_left() -> None:
    found = memory(shapes.LLAMA3_8B)
    tokens = found.cached_tokens(A10G)
    assert tokens > 8192
    used = found.total - found.cache + tokens * found.token
    assert used <= found.limit(A10G) < used + found.token


def test_graphs_are_captured_with_and_without_adapters() -> None:
    """Up to 128 tokens in pieces (19 sizes), and up to 64 requests as a whole (11)."""
    base = shape(shapes.LLAMA3_8B)
    per_token = 2 * (4 * base.hidden + 3 * base.intermediate)
    found = memory(shapes.LLAMA3_8B)
    assert found.graphs == base.layers * 2 * (19 + 11) * 256 * 2**10 + 128 * per_token


def test_without_a_length_there_is_no_estimate() -> None:
    base = shape({**shapes.LLAMA3_8B, "max_position_embeddings": None})
    without = spec().model_copy(update={"max_model_len": None})
    assert endpoint.endpoint(base, without) is None


def test_each_card_of_the_comparison_has_another_size() -> None:
    sizes = [card.memory for card in endpoint.cards()]
    assert sizes == sorted(set(sizes))
    assert not any("V100" in card.name for card in endpoint.cards())


def test_a_base_with_windows_is_not_refused_for_the_cache_of_all_layers() -> None:
    base = shape(shapes.GEMMA3_12B)
    long = spec().model_copy(update={"max_model_len": None})
    assert endpoint_verdict.refusal(base, long, CARDS["NVIDIA-A40"]) is None
    full = replace(base, windowed=0, window=0)
    assert endpoint_verdict.refusal(full, long, CARDS["NVIDIA-A40"]) is not None


def test_the_suggested_length_of_a_base_with_windows_fits() -> None:
    base, card = shape(shapes.GEMMA3_12B), CARDS["NVIDIA-A40"]
    small = spec(maxAdapters=24).model_copy(update={"max_model_len": 1_048_576})
    refused = endpoint_verdict.refusal(base, small, card)
    assert refused is not None
    length = int(str(refused).split("maxModelLen: ")[1].split(",")[0])
    assert length > 8192
    fitting = small.model_copy(update={"max_model_len": length})
    assert endpoint_verdict.refusal(base, fitting, card) is None


def test_an_endpoint_is_refused_only_where_it_does_not_fit() -> None:
    base = shape(shapes.LLAMA3_8B)
    many = spec(maxAdapters=60)
    refused = endpoint_verdict.refusal(base, many, A10G)
    assert refused is not None
    assert "adapters 4.77 GiB in 61 slots" in str(refused)
    for card in (None, CARDS["NVIDIA-L40S"]):
        assert endpoint_verdict.refusal(base, many, card) is None
