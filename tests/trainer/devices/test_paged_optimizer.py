"""A GPU without managed memory trains with an optimizer that is not paged."""

from typing import Any

import pytest
from tests.support.trainer.faults import without_managed_memory
from tests.trainer.conftest import MakeWorkshop

from finetune_api.v1alpha1.training.advanced import Optimizer
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.devices import paged_optimizer
from finetune_trainer.devices.capabilities import Device
from finetune_trainer.errors import InvalidSpec

CPU = Device(name="cpu", cuda=False)
VIRTUAL = Device(name="NVIDIA A10-4Q", cuda=True, capability=(8, 6))
NAMES: tuple[str, ...] = Optimizer.__args__  # type: ignore[attr-defined]
PAGED = [name for name in NAMES if name.startswith("paged_")]


def recipe(optimizer: str) -> Training:
    return Training.model_validate({"epochs": 1, "advanced": {"optimizer": optimizer}})


def unknown() -> str:
    raise AssertionError("the probe must not run")


@pytest.mark.parametrize("name", PAGED)
def test_paged_optimizers_fall_back_or_are_refused(name: str) -> None:
    given = recipe(name)
    assert paged_optimizer.fitting(given, VIRTUAL, probe=lambda: None) == (given, ())
    assert paged_optimizer.fitting(given, CPU, probe=unknown) == (given, ())
    if name == "paged_adamw_32bit":
        with pytest.raises(InvalidSpec, match=r"\(error 801\): set training.advanced.optimizer to"):
            paged_optimizer.fitting(given, VIRTUAL, probe=lambda: "error 801")
        return
    found, (warning,) = paged_optimizer.fitting(given, VIRTUAL, probe=lambda: "error 801")
    chosen = found.advanced.optimizer
    assert chosen in NAMES
    assert chosen not in PAGED
    assert found == recipe(chosen)
    assert warning == (
        f"NVIDIA A10-4Q has no managed memory for the states of {name} (error 801), so training "
        f"uses {chosen}, which keeps its states in GPU memory"
    )


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(PAGED)))
def test_other_optimizers_are_not_probed(name: str) -> None:
    assert paged_optimizer.fitting(recipe(name), VIRTUAL, probe=unknown) == (recipe(name), ())


@pytest.mark.parametrize("name", ["paged_adamw_8bit", "paged_adamw_32bit"])
def test_the_stage_reports_the_optimizer(make: MakeWorkshop, name: str) -> None:
    advanced: dict[str, Any] = {"optimizer": name}
    workshop = make(training={"maxSteps": 1, "advanced": advanced})
    workshop.succeed("prepare")
    ended = workshop.with_fault(without_managed_memory).run("train")
    said = f"NVIDIA A10-4Q has no managed memory for the states of {name} (error 801)"
    if name == "paged_adamw_32bit":
        assert (ended.code, ended.result["reason"]) == (64, "InvalidSpec"), ended.log
        assert f"{said}: set training.advanced.optimizer to adamw_8bit" in ended.message
        return
    assert ended.code == 0, ended.log
    assert [each for each in ended.result["warnings"] if said in each]
    assert ended.log.count(said) >= 2, "when the training starts and at its end"
