"""The memory of serving, against figures that are computed here."""

from dataclasses import replace

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
