"""Crashes, stops and budgets: progress is kept, and the result is bit-identical."""

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.trainer import tiny
from tests.support.trainer.faults import KilledAfterCheckpoint, RecordsStarts
from tests.support.trainer.hub import Hub
from tests.support.trainer.workshop import Running, Workshop
from tests.support.variants import variants
from tests.trainer.checkpointing.conftest import RECIPE, STEPS
from tests.trainer.conftest import MakeWorkshop
from tests.trainer.reporting.test_event_file import records

from finetune_trainer.checkpointing import manifest
from finetune_trainer.errors import Stopped
from finetune_trainer.reporting.event_file import FILE
from finetune_trainer.reporting.loss_history import LossHistory, Points
from finetune_trainer.training import backends
from finetune_trainer.training.backends import sft, trl


@pytest.fixture(scope="module")
def uninterrupted(make: MakeWorkshop) -> Workshop:
    workshop = make(**RECIPE)
    workshop.prepare_and_train()
    return workshop


@pytest.fixture(scope="module")
def uninterrupted_on_unsloth(make: MakeWorkshop) -> Workshop:
    own = {"lora": {"modulesToSave": ["embed_tokens"]}, "advanced": {"backend": "unsloth"}}
    workshop = make(**tiny.merged(RECIPE, {"training": own}))
    workshop.prepare_and_train()
    return workshop


def prepared_copy(make: MakeWorkshop, like: Workshop) -> Workshop:
    """Return a prepared but untrained job, with a copy of the prepared data of another job."""
    workshop = make()
    workshop.write(like.job)
    for name in ("base", "dataset"):
        shutil.copytree(like.work / name, workshop.work / name)
    return workshop


def step_reached(workshop: Workshop, step: int) -> Any:
    return lambda: any(
        int(path.name[5:]) >= step for path in (workshop.work / "checkpoints").glob("step-*")
    )


def kill(running: Running) -> None:
    assert running.process.pid is not None
    os.kill(running.process.pid, signal.SIGKILL)
    assert running.wait().code == -signal.SIGKILL


def adapter(workshop: Workshop) -> bytes:
    return (workshop.work / "adapter" / "adapter_model.safetensors").read_bytes()


def losses(workshop: Workshop) -> Points:
    return LossHistory.load(workshop.work / "adapter")["loss"]


def newest(workshop: Workshop) -> Path:
    return max((workshop.work / "checkpoints").glob("step-*"), key=lambda p: int(p.name[5:]))


@pytest.mark.parametrize(
    "like", variants(["uninterrupted", "uninterrupted_packed"], kept=["uninterrupted_packed"])
)
def test_training_killed_twice_is_bit_identical(
    make: MakeWorkshop, request: pytest.FixtureRequest, like: str
) -> None:
    uninterrupted: Workshop = request.getfixturevalue(like)
    workshop = prepared_copy(make, uninterrupted)
    for step in (4, 12):
        running = workshop.start("train")
        running.until(step_reached(workshop, step))
        kill(running)
    starts = RecordsStarts(path=workshop.folder / "starts")
    ended = workshop.with_fault(starts).succeed("train")
    step = int(re.findall(r"resuming from the checkpoint of step (\d+)", ended.log)[-1])
    assert step > 0
    # The remaining time is estimated from the steps of this attempt, without its slow first one.
    assert starts.shares == [step / STEPS, (step + 1) / STEPS]
    assert adapter(workshop) == adapter(uninterrupted)
    own, others = (records(each.work / "adapter" / FILE) for each in (workshop, uninterrupted))
    assert own == others
    assert [value for tag, _, value in own if tag == "train/loss"] == pytest.approx(
        [loss for _, loss in losses(workshop)], abs=1e-4
    )
    theirs = uninterrupted.succeed("train").result
    for name in ("loss", "evalLoss", "globalStep"):
        assert ended.result[name] == theirs[name]
    mine, expected = (each["artifacts"]["lossHistory"] for each in (ended.result, theirs))
    assert [at for at, _ in mine["loss"]] == list(range(1, STEPS + 1)), "over all attempts"
    assert (mine["loss"], mine["evalLoss"]) == (expected["loss"], expected["evalLoss"])
    assert mine["tokensPerSecond"]
    assert ended.result["gpuSeconds"] > 0


def test_evaluation_does_not_change_the_training(
    make: MakeWorkshop, uninterrupted: Workshop
) -> None:
    # On CPUs with AVX512-BF16 one forward pass without gradients used to spoil every later step.
    workshop = prepared_copy(make, uninterrupted)
    seldom = {"training": {"advanced": {"evalSteps": STEPS, "saveSteps": STEPS}}}
    workshop.write(tiny.merged(uninterrupted.job, seldom))
    ended = workshop.succeed("train")
    assert ended.log.count("loss on held-out rows") == 1
    assert adapter(workshop) == adapter(uninterrupted)
    assert ended.result["evalLoss"] == uninterrupted.succeed("train").result["evalLoss"]


def test_torn_checkpoint_is_set_aside(make: MakeWorkshop, uninterrupted: Workshop) -> None:
    workshop = prepared_copy(make, uninterrupted)
    running = workshop.start("train")
    running.until(step_reached(workshop, 6))
    kill(running)
    torn = newest(workshop)
    state = torn / "optimizer.pt"
    state.write_bytes(state.read_bytes()[:-100])
    ended = workshop.succeed("train")
    said = f"checkpoint {torn.name} is damaged and was set aside"
    assert said in ended.log
    assert any(said in each for each in ended.result["warnings"])
    assert f"resuming from the checkpoint of step {int(torn.name[5:]) - 2}" in ended.log
    assert adapter(workshop) == adapter(uninterrupted)


def test_unreadable_checkpoint_is_skipped_with_a_warning(
    make: MakeWorkshop, uninterrupted: Workshop
) -> None:
    workshop = prepared_copy(make, uninterrupted)
    workshop.with_fault(KilledAfterCheckpoint(step=6)).run("train")
    for step in (4, 6):
        path = workshop.work / "checkpoints" / f"step-{step}" / manifest.FILE
        path.rename(path.with_name("kept"))
        # Reading the first byte of this file fails with EIO.
        path.symlink_to("/proc/self/mem")
    ended = workshop.run("train")
    assert (ended.code, ended.result["reason"]) == (75, "Transient"), ended.log
    assert "Input/output error at every checkpoint: step-6, step-4" in ended.message
    kept = workshop.work / "checkpoints" / "step-4" / "kept"
    kept.rename(kept.with_name(manifest.FILE))
    ended = workshop.with_fault(KilledAfterCheckpoint(step=8)).run("train")
    assert "resuming from the checkpoint of step 4" in ended.log
    ended = workshop.succeed("train")
    assert "resuming from the checkpoint of step 8" in ended.log
    (said,) = (each for each in ended.result["warnings"] if "checkpoint" in each)
    assert said.startswith("checkpoint step-6 cannot be read ([Errno 5]")
    assert adapter(workshop) == adapter(uninterrupted)


@pytest.mark.parametrize(
    "like", variants(["uninterrupted", "uninterrupted_on_unsloth"], kept=["uninterrupted"])
)
def test_sigterm_saves_a_checkpoint_and_reports_it(
    make: MakeWorkshop, request: pytest.FixtureRequest, like: str
) -> None:
    uninterrupted: Workshop = request.getfixturevalue(like)
    workshop = prepared_copy(make, uninterrupted)
    workshop.write(tiny.merged(uninterrupted.job, {"training": {"advanced": {"saveSteps": 1000}}}))
    running = workshop.start("train")
    running.until(lambda: "step 4/" in (workshop.folder / "log").read_text())
    assert running.process.pid is not None
    os.kill(running.process.pid, signal.SIGTERM)
    ended = running.wait()
    assert (ended.code, ended.result["outcome"], ended.result["reason"]) == (
        143,
        "stopped",
        "Stopped",
    )
    step = ended.result["globalStep"]
    assert 4 <= step < STEPS
    assert ended.message == f"stopped at step {step} of {STEPS}; the checkpoint is kept"
    assert newest(workshop).name == f"step-{step}"
    assert "adapter" not in workshop.published()
    workshop.succeed("train")
    assert adapter(workshop) == adapter(uninterrupted)
    assert losses(workshop) == losses(uninterrupted)
    assert json.loads((workshop.work / "usage.json").read_text())["retries"] == {"stopped": 1}


@pytest.mark.parametrize("command", ["prepare", "train", "merge"])
def test_sigterm_before_the_first_step_saves_nothing(
    make: MakeWorkshop, tmp_path: Path, command: str
) -> None:
    workshop = make()
    # A named pipe without a writer blocks the command when it reads its configuration.
    config = workshop.folder / "job.json"
    config.unlink()
    os.mkfifo(config)
    fields: dict[str, Any] = {"build": "b"} if command == "merge" else {}
    running = workshop.start(command, **fields)
    running.until(lambda: is_waiting_to_open(running, config))
    assert running.process.pid is not None
    os.kill(running.process.pid, signal.SIGTERM)
    ended = running.wait()
    assert (ended.code, ended.result["outcome"], ended.result["stage"]) == (143, "stopped", command)


def is_waiting_to_open(running: Running, fifo: Path) -> bool:
    call = Path(f"/proc/{running.process.pid}/wchan").read_text()
    return "fifo" in call or "wait_for_partner" in call


def test_resume_from_the_last_step_adds_no_step(
    make: MakeWorkshop, uninterrupted: Workshop
) -> None:
    workshop = prepared_copy(make, uninterrupted)
    shutil.copytree(uninterrupted.work / "checkpoints", workshop.work / "checkpoints")
    ended = workshop.succeed("train")
    assert f"step {STEPS - 1}/" not in ended.log
    assert adapter(workshop) == adapter(uninterrupted)
    assert ended.result["evalLoss"] == uninterrupted.succeed("train").result["evalLoss"]


@pytest.mark.parametrize("change", ["key", "versions"])
def test_foreign_checkpoint_is_refused(
    make: MakeWorkshop, uninterrupted: Workshop, change: str
) -> None:
    workshop = prepared_copy(make, uninterrupted)
    shutil.copytree(uninterrupted.work / "checkpoints", workshop.work / "checkpoints")
    path = newest(workshop)
    found = manifest.read(path)
    facts = found.facts | {"versions": found.facts["versions"] | {"torch": "1.0"}}
    manifest.publish(
        shutil.copytree(path, workshop.work / "foreign"),
        path,
        kind=found.kind,
        key="another" if change == "key" else found.key,
        facts=facts if change == "versions" else found.facts,
    )
    ended = workshop.run("train")
    assert (ended.code, ended.result["reason"]) == (78, "ResumeRefused")
    said = "belongs to another revision" if change == "key" else "torch 1.0, now 2."
    assert said in ended.message


def test_checkpoint_whose_tensors_have_other_names_is_refused(
    make: MakeWorkshop, uninterrupted: Workshop
) -> None:
    """An earlier version trained a multimodal base as a whole; PEFT ignores names of that model."""
    workshop = prepared_copy(make, uninterrupted)
    shutil.copytree(uninterrupted.work / "checkpoints", workshop.work / "checkpoints")
    path = newest(workshop)
    found, scratch = manifest.read(path), workshop.work / "renamed"
    shutil.copytree(path, scratch)
    (scratch / manifest.FILE).unlink()
    tensors = load_file(scratch / "adapter_model.safetensors")
    whole = {name.replace(".layers.", ".language_model.layers."): tensors[name] for name in tensors}
    save_file(whole, scratch / "adapter_model.safetensors", {"format": "pt"})
    manifest.publish(scratch, path, kind=found.kind, key=found.key, facts=found.facts)
    ended = workshop.run("train")
    assert (ended.code, ended.result["reason"]) == (78, "ResumeRefused"), ended.log
    assert f"checkpoint {path.name} does not fit the model" in ended.message
    for part in ("", ".language_model"):
        assert f"model{part}.layers.0.mlp.down_proj.lora_A.weight" in ended.message
    assert "set spec.rerun to a new value" in ended.message


@pytest.mark.parametrize("another", ["recipe", "dataset"])
def test_changed_recipe_or_rows_do_not_resume(
    make: MakeWorkshop, uninterrupted: Workshop, another: str
) -> None:
    own: dict[str, dict[str, Any]] = {
        "recipe": {"training": {"learningRate": 0.5}},
        "dataset": {"dataset": {"maxSamples": 20}},
    }
    workshop = make(**tiny.merged(RECIPE, own[another]))
    if another == "dataset":
        # Simulate a source that returned other rows for the same spec.
        workshop.write(workshop.job | {"digest": uninterrupted.job["digest"]})
    workshop.succeed("prepare")
    shutil.copytree(uninterrupted.work / "checkpoints", workshop.work / "checkpoints")
    ended = workshop.run("train")
    assert (ended.code, ended.result["reason"]) == (78, "ResumeRefused")
    assert "belongs to another revision or dataset" in ended.message


def test_training_without_prepared_data_is_refused(make: MakeWorkshop) -> None:
    ended = make().run("train")
    assert (ended.code, ended.result["reason"]) == (78, "ResumeRefused")
    assert "prepare the base model and the dataset again, set spec.rerun to a new value" in (
        ended.message
    )


def test_budget_counts_all_attempts(make: MakeWorkshop) -> None:
    workshop = make(training={"maxSteps": 2})
    workshop.succeed("prepare")
    (workshop.work / "usage.json").write_text('{"gpuSeconds": 1000}')
    ended = workshop.run("train", max_gpu_seconds=900)
    assert (ended.code, ended.result["reason"]) == (85, "BudgetExceeded")
    assert "until step 0 of 2, but runPolicy allows 900" in ended.message
    ended = workshop.run("train", max_gpu_seconds=2000)
    assert ended.code == 0, ended.log
    assert 1000 < ended.result["gpuSeconds"] < 1100


def test_exceeded_budget_ends_with_a_checkpoint(make: MakeWorkshop) -> None:
    workshop = make(training={"maxSteps": 9999, "advanced": {"saveSteps": 9999}})
    workshop.succeed("prepare")
    ended = workshop.run("train", max_gpu_seconds=3)
    assert (ended.code, ended.result["reason"]) == (85, "BudgetExceeded")
    step = ended.result["globalStep"]
    assert newest(workshop).name == f"step-{step}"
    assert ended.result["artifacts"]["lossHistory"]["loss"][-1][0] == step
    assert f"until step {step} of 9999, but runPolicy allows 3: to resume" in (ended.message)


def test_base_with_nan_weights_fails_at_the_first_step(
    make: MakeWorkshop, hub: Hub, tmp_path: Path
) -> None:
    folder = tiny.model(tmp_path / "nan", shard="10GB")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    workshop = make(model={"source": hub.add("model", "demo/nan", folder)})
    workshop.succeed("prepare")
    ended = workshop.run("train")
    assert (ended.code, ended.result["reason"]) == (81, "LossDiverged")
    assert (
        "the loss is nan at step 1: lower training.learningRate (currently 0.01)" in ended.message
    )
    assert workshop.published() == ["base", "dataset"]
    assert not list((workshop.work / "checkpoints").glob("step-*"))


def test_out_of_memory_is_distinguished_from_other_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sft, "_train", out_of_memory)
    with pytest.raises(backends.OutOfMemory, match="GiB were allocated"):
        trl.TrlBackend().train(None, None, Path())  # type: ignore[arg-type]


def test_stopped_is_not_an_exception_subclass() -> None:
    assert not issubclass(Stopped, Exception)
