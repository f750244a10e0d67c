"""Early stopping on the held-out loss, with the best adapter as the result."""

import shutil

import pytest
from tests.support.trainer.faults import KilledAfterCheckpoint
from tests.support.trainer.workshop import Workshop
from tests.trainer.checkpointing.test_resume import adapter, prepared_copy
from tests.trainer.conftest import MakeWorkshop

from finetune_trainer.checkpointing import manifest
from finetune_trainer.training.loop.early_stopping import Evaluation, EvaluationHistory

STEPS = 40


@pytest.mark.parametrize(
    ("losses", "patience", "exhausted", "kept"),
    [
        ([], 1, False, None),
        ([3.0, 2.0, 1.0], 1, False, 3),
        ([3.0, 2.0, 2.0], 1, True, 2),
        ([3.0, 2.0, 2.5], 2, False, 2),
        ([3.0, 2.0, 2.5, 2.1], 2, True, 2),
        ([3.0, 2.0, 2.5, 1.9], 2, False, 4),
        ([1.0, 2.0, 3.0], None, False, None),
    ],
)
def test_patience_counts_evaluations_without_a_lower_loss(
    losses: list[float], patience: int | None, exhausted: bool, kept: int | None
) -> None:
    found = EvaluationHistory(patience=patience)
    for step, loss in enumerate(losses, 1):
        found.add(step, loss)
    assert found.patience_exhausted == exhausted
    assert (found.best.step if found.best else None) == kept
    assert EvaluationHistory.from_facts(found.as_facts(), patience=patience).best == found.best


def test_repeated_evaluation_of_a_step_counts_once() -> None:
    found = EvaluationHistory([Evaluation(step=1, loss=1.0)], patience=1)
    found.add(2, 2.0)
    found.add(2, 2.0)
    assert found.as_facts() == [[1, 1.0], [2, 2.0]]


def trained(make: MakeWorkshop, backend: str) -> Workshop:
    """Train with a learning rate so high that the held-out loss rises after a few steps."""
    advanced = {"evalSteps": 1, "saveSteps": 100, "earlyStoppingPatience": 3, "backend": backend}
    workshop = make(
        dataset={"validationFraction": 0.3},
        training={"maxSteps": STEPS, "learningRate": 0.1, "advanced": advanced},
    )
    workshop.prepare_and_train()
    return workshop


@pytest.fixture(scope="module")
def early(make: MakeWorkshop) -> Workshop:
    return trained(make, "trl")


@pytest.fixture(scope="module")
def early_on_unsloth(make: MakeWorkshop) -> Workshop:
    return trained(make, "unsloth")


@pytest.mark.parametrize("like", ["early", "early_on_unsloth"])
def test_early_stop_publishes_the_adapter_with_the_lowest_loss(
    request: pytest.FixtureRequest, like: str
) -> None:
    early: Workshop = request.getfixturevalue(like)
    facts = manifest.read(early.work / "adapter").facts
    losses = dict(facts["evaluations"])
    best = min(losses, key=lambda step: (losses[step], step))
    last = facts["globalStep"]
    assert last == best + 3 < STEPS
    assert facts["adapterStep"] == best
    assert facts["evalLoss"] == losses[best]
    checkpoint = early.work / "checkpoints" / f"step-{best}" / "adapter_model.safetensors"
    assert checkpoint.read_bytes() == adapter(early)
    again = early.succeed("train").result
    assert (again["globalStep"], again["maxSteps"]) == (last, STEPS)


def test_early_stop_is_reported_in_the_log(make: MakeWorkshop, early: Workshop) -> None:
    facts = manifest.read(early.work / "adapter").facts
    said = (
        f"stopped early at step {facts['globalStep']} of {STEPS}; kept the adapter of step "
        f"{facts['adapterStep']}, which has the lowest loss on the held-out rows: "
    )
    assert said in (early.folder / "log").read_text()


@pytest.mark.parametrize("back", [0, 1, 3])
def test_early_stop_after_a_kill_gives_the_same_adapter(
    make: MakeWorkshop, early: Workshop, back: int
) -> None:
    """The training is killed before an evaluation; the best and the last one matter most."""
    last = manifest.read(early.work / "adapter").facts["globalStep"]
    workshop = prepared_copy(make, early)
    running = workshop.with_fault(KilledAfterCheckpoint(step=last - back)).start("train")
    assert running.wait().code == -9
    workshop.succeed("train")
    assert adapter(workshop) == adapter(early)
    found, expected = (manifest.read(each.work / "adapter").facts for each in (workshop, early))
    assert found["evaluations"] == expected["evaluations"]


def test_damaged_best_checkpoint_is_refused(make: MakeWorkshop, early: Workshop) -> None:
    facts = manifest.read(early.work / "adapter").facts
    workshop = prepared_copy(make, early)
    shutil.copytree(early.work / "checkpoints", workshop.work / "checkpoints")
    best = workshop.work / "checkpoints" / f"step-{facts['adapterStep']}"
    (best / "adapter_model.safetensors").write_bytes(b"torn")
    ended = workshop.run("train")
    assert (ended.code, ended.result["reason"]) == (78, "ResumeRefused")
    assert "with the lowest loss on the held-out rows is damaged" in ended.message


def test_early_stopping_requires_held_out_rows(make: MakeWorkshop) -> None:
    workshop = make(training={"advanced": {"earlyStoppingPatience": 3}})
    ended = workshop.run("prepare")
    assert (ended.code, ended.result["reason"]) == (65, "DatasetInvalid")
    assert "training.advanced.earlyStoppingPatience needs held-out rows" in ended.message
    assert "dataset.validationFraction" in ended.message
