"""Unsloth's trainer as it is on a GPU: its loss, collator and arguments, on a CPU.

The model is that of transformers, because Unsloth's Triton kernels need a GPU.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.trainer import architectures, backend_probe, tiny
from tests.support.trainer.faults import KilledAfterCheckpoint, OutOfMemoryAbove
from tests.support.trainer.workshop import CUDA_SHAPED, Server, Workshop
from tests.support.variants import variants
from tests.trainer.checkpointing.test_resume import newest, prepared_copy
from tests.trainer.conftest import MakeWorkshop

from finetune_api.contracts.job_config import JobConfig
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.checkpointing import manifest
from finetune_trainer.compatibility.backend_choice import NOT_PACKED
from finetune_trainer.evaluation import scoring_process
from finetune_trainer.volume_layout import Layout

STEPS = 6
RECIPE: dict[str, Any] = {
    "dataset": {"validationFraction": 0.2},
    "training": {
        "maxSteps": STEPS,
        "effectiveBatchSize": 2,
        "lora": {"dropout": 0.1},
        "advanced": {
            "backend": "unsloth",
            "saveSteps": 2,
            "evalSteps": 2,
            "neftuneNoiseAlpha": 5,
            "loraplusLrRatio": 2,
        },
    },
}


@pytest.fixture(scope="module")
def shaped(make: MakeWorkshop, servers: dict[str, Server]) -> MakeWorkshop:
    """Return a function that creates a job whose commands run with Unsloth as on a GPU."""

    def made(**changes: Any) -> Workshop:
        workshop = make(**tiny.merged(RECIPE, changes))
        workshop.servers = {"unsloth": servers[CUDA_SHAPED]}
        return workshop

    return made


def recipe(backend: str, *, packed: bool) -> Training:
    advanced = {"backend": backend, "microBatchSize": 1 if packed else 2}
    lora = {"targetModules": ["all-linear"], "dropout": 0}
    job = tiny.job("hf://a/b", "hf://c/d", training={"lora": lora, "advanced": advanced})
    return JobConfig.model_validate(job).training


PADDED = {"llama", *NOT_PACKED}
"""Families whose rows are also padded: Unsloth's collator for them does not depend on the family,
unlike its loss, which computes packed and padded rows alike."""
ALL, FEW = frozenset(architectures.FAMILIES), frozenset({"llama", *NOT_PACKED})
"""One family that is packed and padded, and one that is not packed, stand for all of them."""


@pytest.mark.parametrize("families", variants([FEW, ALL], kept=[FEW]), ids=["few", "all"])
def test_step_of_each_family_is_that_of_trl(
    servers: dict[str, Server], tmp_path: Path, families: frozenset[str]
) -> None:
    bases = {family: architectures.model(tmp_path / family, family) for family in sorted(families)}

    def first_steps(server: str, backend: str, *, packed: bool) -> dict[tuple[str, bool], Any]:
        tried = {name: base for name, base in bases.items() if packed or name in PADDED}
        recipes = {packed: recipe(backend, packed=packed)}
        found: dict[tuple[str, bool], Any] = backend_probe.ask(
            servers[server], backend_probe.first_steps, tried, recipes
        )
        return found

    of_trl, of_unsloth = (
        first_steps(server, backend, packed=True) | first_steps(server, backend, packed=False)
        for server, backend in (("trl", "trl"), (CUDA_SHAPED, "unsloth"))
    )
    assert of_trl.keys() == of_unsloth.keys()
    for (family, packed), step in of_unsloth.items():
        if packed and family in NOT_PACKED:
            assert "the backend would set packing to False instead of True" in step
            continue
        theirs = of_trl[family, packed]
        assert "UnslothSFTTrainer" in step["trainer"]
        assert "UnslothSFTTrainer" not in theirs["trainer"]
        assert step["tokens"] == theirs["tokens"] == (100 if packed else 49)
        # Both compute in bfloat16, but the loss and the attention of packed rows differ.
        assert step["loss"] == pytest.approx(theirs["loss"], abs=1e-3), (family, packed)
        difference = np.linalg.norm(step["gradients"] - theirs["gradients"])
        assert difference < 0.05 * np.linalg.norm(theirs["gradients"]), (family, packed)


@pytest.mark.exhaustive
@pytest.mark.parametrize("packing", ["always", "never"])
def test_killed_training_is_bit_identical(
    make: MakeWorkshop, shaped: MakeWorkshop, packing: str
) -> None:
    uninterrupted = shaped(training={"packing": packing, "sequenceLength": 160})
    uninterrupted.succeed("prepare")
    killed = prepared_copy(make, uninterrupted)
    killed.servers = uninterrupted.servers
    at_end = KilledAfterCheckpoint(step=STEPS)
    assert uninterrupted.with_fault(at_end).run("train").code == -9
    assert killed.with_fault(KilledAfterCheckpoint(step=2)).run("train").code == -9
    resumed = killed.with_fault(at_end).run("train")
    assert resumed.code == -9
    assert "resuming from the checkpoint of step 2" in resumed.log
    assert resumed.log.count("loss on held-out rows") == 2
    first, second = (state(each) for each in (uninterrupted, killed))
    assert len(first["evaluations"]) == STEPS // 2 - 1
    assert first == second


def state(workshop: Workshop) -> dict[str, Any]:
    """Return what the newest checkpoint of a job contains."""
    path = newest(workshop)
    history = json.loads((path / "trainer_state.json").read_text())["log_history"]
    return {
        "step": path.name,
        "adapter": (path / "adapter_model.safetensors").read_bytes(),
        "losses": [each["loss"] for each in history],
        "evaluations": manifest.read(path).facts["evaluations"],
    }


@pytest.fixture(scope="module")
def fallen_back(shaped: MakeWorkshop) -> tuple[Workshop, str]:
    """A job that ran out of memory in its first micro-batch, and the log of its training."""
    workshop = shaped(training={"maxSteps": 3})
    workshop.succeed("prepare")
    ended = workshop.with_fault(OutOfMemoryAbove(rows=1)).run("train")
    assert ended.code == 0, ended.log
    return workshop, ended.log


def test_fallback_trains_with_a_smaller_micro_batch(fallen_back: tuple[Workshop, str]) -> None:
    workshop, log = fallen_back
    retried = "ran out of memory with micro-batch size 2; retrying with micro-batch size 1\n"
    assert retried in log
    assert manifest.read(workshop.work / "adapter").facts["microBatch"] == 1
    # The speed is unknown in the first step only.
    assert log.count("? tokens/s") == 1
    assert log.count(" tokens/s") == 3


def test_reference_is_that_of_the_unchanged_libraries(
    fallen_back: tuple[Workshop, str], servers: dict[str, Server]
) -> None:
    workshop, log = fallen_back
    assert "recording the reference in a process without Unsloth" in log
    scored = backend_probe.ask(servers["trl"], backend_probe.reference, workshop.work)
    assert (workshop.work / "reference" / "reference.json").read_text() == scored


def test_failure_of_the_scoring_process_names_its_error(tmp_path: Path) -> None:
    with pytest.raises(scoring_process.ScoringFailed, match="FileNotFoundError"):
        scoring_process.score(Layout(work=tmp_path))
