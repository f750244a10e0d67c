"""The memory of serving, against figures that are computed here."""

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.trainer import shapes

from finetune_api.contracts.stage_request import ServingSettings
from finetune_trainer.devices import cards
from finetune_trainer.estimate import serving, shape
from finetune_trainer.estimate.memory import GIB

A10G = cards.CARDS["NVIDIA-A10G"]


@pytest.fixture(scope="module")
def llama3() -> shape.Shape:
    found = shape.read(shapes.LLAMA3_8B)
    assert found is not None
    return found


def test_working_memory_has_context_activations_and_sampler(llama3: shape.Shape) -> None:
    found = serving.serving(llama3, ServingSettings(max_model_len=4096, gpu_memory_utilization=0.9))
    assert found is not None
    activations = 2048 * 2 * (4 * 4096 + 3 * 14336)
    sampler = 256 * 128256 * 4 * 2
    assert found.working == int(0.6 * GIB) + 150 * 2**20 + activations + sampler
    assert found.graphs == 32 * 86 * 2**18 + 512 * 2 * (4 * 4096 + 3 * 14336)
    assert found.total == found.weights + found.cache + found.graphs + found.working
    assert found.limit(A10G) == 0.9 * 23028 * 2**20


def test_length_defaults_to_the_context_of_the_model(llama3: shape.Shape) -> None:
    options = ServingSettings(max_model_len=None, gpu_memory_utilization=0.9)
    found = serving.serving(llama3, options)
    assert found is not None
    assert found.length == 8192
    # Keys and values of 32 layers, 8 heads of 128, 2 bytes each.
    assert found.cache == 2 * 32 * 8 * 128 * 2 * 8192
    assert serving.serving(replace(llama3, context=None), options) is None


def test_layers_with_a_window_keep_the_window_and_one_chunk() -> None:
    """As vLLM admits a request: it keeps the window and ``max_num_batched_tokens``."""
    gemma = shape.read(shapes.GEMMA3_12B)
    assert gemma is not None
    layer = 2 * 8 * 256 * 2
    assert serving.cache_bytes(gemma, 2000) == 48 * layer * 2000
    expected = (8 * 131_072 + 40 * (1024 + 2048)) * layer
    assert serving.cache_bytes(gemma, 131_072) == expected
    assert expected < 9.5 * GIB


@pytest.mark.parametrize("config", [shapes.GEMMA3_12B, shapes.LLAMA3_8B])
@pytest.mark.parametrize("tokens", [1, 3071, 3072, 3073, 50_000])
def test_the_longest_request_takes_the_whole_cache(config: dict[str, Any], tokens: int) -> None:
    found = shape.read(config)
    assert found is not None
    needed = serving.cache_bytes(found, tokens)
    assert serving.longest(found, needed) == tokens
    assert serving.longest(found, needed - 1) == tokens - 1


def test_with_windows_alone_any_length_fits_once_the_window_does() -> None:
    mistral = shape.read(shapes.LLAMA3_8B | {"model_type": "mistral", "sliding_window": 4096})
    assert mistral is not None
    whole = serving.cache_bytes(mistral, 1 << 20)
    assert serving.longest(mistral, whole) == serving.LONGEST_LENGTH
    assert serving.longest(mistral, whole - 1) < 4096 + 2048


@pytest.mark.parametrize("share", [0.8, 0.88, 0.95])
def test_longest_length_leaves_a_tenth_of_the_free_memory(
    llama3: shape.Shape, share: float
) -> None:
    length = serving.longest_that_fits(
        llama3, ServingSettings(max_model_len=None, gpu_memory_utilization=share), A10G
    )
    assert length > 0
    assert length % 256 == 0
    for tokens, fits in ((length, True), (length + 256, False)):
        settings = ServingSettings(max_model_len=tokens, gpu_memory_utilization=share)
        found = serving.serving(llama3, settings)
        assert found is not None
        room = found.limit(A10G) - (found.total - found.cache)
        assert (found.cache <= 0.9 * room) is fits


def test_longest_length_is_0_if_the_weights_do_not_fit(llama3: shape.Shape) -> None:
    options = ServingSettings(max_model_len=None, gpu_memory_utilization=0.5)
    assert serving.longest_that_fits(llama3, options, A10G) == 0
