"""The refusal of a volume that is too small for the whole job."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.trainer import shapes

from finetune_api.quantity import amount
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.compatibility.backend_choice import with_backend
from finetune_trainer.estimate import shape, verdict
from finetune_trainer.estimate.budget import Data, EstimateOptions, estimate
from finetune_trainer.volume.disk import sufficient


@given(st.integers(1, 1 << 44))
def test_the_sufficient_size_is_a_quantity_that_is_not_much_larger(count: int) -> None:
    size = amount(sufficient(count))
    unit = 1 << (30 if count > 1 << 30 else 20)
    assert count <= size < count + unit


@pytest.mark.parametrize(("beyond", "refused"), [(0, False), (-1, True)])
def test_a_volume_below_the_estimate_is_refused(beyond: int, refused: bool) -> None:
    llama3 = shape.read(shapes.LLAMA3_8B)
    assert llama3 is not None
    recipe = with_backend(Training(), "trl")
    found = estimate(llama3, recipe, data=Data(), options=EstimateOptions())
    error = verdict.volume_refusal(found, found.volume + beyond)
    assert (error is not None) == refused
    if error is not None:
        assert f"({found.volume} bytes)" in str(error)
        assert str(error).endswith(f"to at least {sufficient(found.volume)}")
    assert verdict.volume_refusal(found, None) is None
