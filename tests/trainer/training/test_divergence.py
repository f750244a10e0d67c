"""Values that are not finite: one retry from the last good checkpoint, then failure."""

import pytest
import torch
from safetensors.torch import load_file
from tests.support.trainer.faults import NotANumberAt, WeightNotANumberAfter
from tests.support.trainer.workshop import Workshop
from tests.support.variants import variants
from tests.trainer.checkpointing.test_resume import adapter
from tests.trainer.conftest import MakeWorkshop

RECIPE = {"maxSteps": 8, "advanced": {"saveSteps": 3}}
EVERY_TIME = 1000


@pytest.fixture(scope="module")
def healthy(make: MakeWorkshop) -> Workshop:
    workshop = make(training=RECIPE)
    workshop.prepare_and_train()
    return workshop


@pytest.mark.parametrize(
    ("step", "in_gradient"),
    variants([(2, False), (2, True), (5, False), (5, True)], kept=[(2, False), (5, True)]),
)
def test_transient_nan_is_recovered_from_the_last_good_checkpoint(
    make: MakeWorkshop, healthy: Workshop, step: int, in_gradient: bool
) -> None:
    workshop = make(training=RECIPE)
    workshop.succeed("prepare")
    fault = NotANumberAt(step=step, times=1, in_gradient=in_gradient)
    ended = workshop.with_fault(fault).run("train")
    assert ended.code == 0, ended.log
    assert f"at step {step}" in ended.log
    assert ended.log.count("retrying once from the last good checkpoint") == 1
    assert ("resuming from the checkpoint of step 3" in ended.log) == (step == 5)
    assert adapter(workshop) == adapter(healthy)


@pytest.mark.parametrize("step", variants([3, 8], kept=[8]))
def test_nan_weight_is_never_saved_in_a_checkpoint_or_adapter(
    make: MakeWorkshop, healthy: Workshop, step: int
) -> None:
    """The loss of the step is finite and a checkpoint is due; no step follows the last one."""
    workshop = make(training=RECIPE)
    workshop.succeed("prepare")
    ended = workshop.with_fault(WeightNotANumberAfter(step=step)).run("train")
    assert ended.code == 0, ended.log
    assert "is not finite at step" in ended.log
    assert ended.log.count("retrying once from the last good checkpoint") == 1
    assert ("resuming from the checkpoint of step 6" in ended.log) == (step == 8)
    assert adapter(workshop) == adapter(healthy)


@pytest.mark.parametrize("in_gradient", [False, True])
def test_diverging_recipe_fails_with_its_step(make: MakeWorkshop, in_gradient: bool) -> None:
    workshop = make(training=RECIPE)
    workshop.succeed("prepare")
    fault = NotANumberAt(step=5, times=EVERY_TIME, in_gradient=in_gradient)
    ended = workshop.with_fault(fault).run("train")
    assert (ended.code, ended.result["reason"]) == (81, "LossDiverged")
    what = "the gradient norm is" if in_gradient else "the loss is nan"
    assert what in ended.message
    assert "at step 5 (last finite loss: " in ended.message
    assert ended.log.count("retrying once from the last good checkpoint") == 1
    assert "adapter" not in workshop.published()
    (kept,) = (workshop.work / "checkpoints").glob("step-*")
    assert kept.name == "step-3"
    weights = load_file(kept / "adapter_model.safetensors")
    assert all(torch.isfinite(each).all() for each in weights.values())
