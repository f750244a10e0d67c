"""OOM fallback: smaller micro-batches with the same loss curve."""

import json

import pytest
from tests.support.trainer.faults import OutOfMemoryAbove, unsloth_in_float32
from tests.support.trainer.workshop import Workshop
from tests.support.variants import variants
from tests.trainer.checkpointing.test_resume import kill, newest, step_reached
from tests.trainer.conftest import MakeWorkshop

from finetune_trainer.checkpointing import manifest
from finetune_trainer.training import backends
from finetune_trainer.training.oom_fallback import MemorySettings, OomFallback

FLOAT32 = {"quantization": {"computeDtype": "float32"}}


class Card:
    """A GPU that runs out of memory above a certain micro-batch."""

    def __init__(self, fits: int, *, fits_offloaded: int = 0) -> None:
        self.fits = fits
        self.fits_offloaded = fits_offloaded
        self.tried: list[str] = []

    def attempt(self, memory: MemorySettings) -> MemorySettings:
        self.tried.append(f"{memory.micro_batch}{'o' * memory.offload}")
        if memory.micro_batch > (self.fits_offloaded if memory.offload else self.fits):
            raise backends.OutOfMemory("1.0 GiB were allocated")
        return memory


@pytest.mark.parametrize(
    ("card", "start", "batch", "written", "tried"),
    [
        (Card(2), 8, 8, False, "8 4 2"),
        (Card(2), 2, 8, False, "2"),
        (Card(1), 12, 12, False, "12 6 3 1"),
        (Card(2), 6, 6, False, "6 3 1"),
        (Card(0, fits_offloaded=1), 2, 8, False, "2 1 1o"),
        (Card(0), 2, 8, False, "2 1 1o"),
        (Card(2, fits_offloaded=4), 4, 8, True, "4 4o"),
        (Card(2), 4, 8, True, "4 4o"),
    ],
)
def test_fallback_halves_until_the_training_fits(
    card: Card, start: int, batch: int, written: bool, tried: str
) -> None:
    fallback = OomFallback(effective_batch=batch, micro_batch_fixed=written, can_offload=True)

    def run() -> MemorySettings:
        return fallback.run(
            card.attempt, MemorySettings(micro_batch=start), too_large=backends.OutOfMemory
        )

    last = tried.split()[-1]
    if int(last.removesuffix("o")) > (card.fits_offloaded if "o" in last else card.fits):
        with pytest.raises(backends.OutOfMemory):
            run()
    else:
        run()
    assert card.tried == tried.split()


def test_fallback_without_offloading_ends_at_micro_batch_one() -> None:
    fallback = OomFallback(effective_batch=8, micro_batch_fixed=False, can_offload=False)
    assert fallback.next_smaller(MemorySettings(micro_batch=1)) is None


@pytest.mark.parametrize("backend", variants(["trl", "unsloth"], kept=["trl"]))
def test_loss_curve_is_unchanged_by_the_fallback(make: MakeWorkshop, backend: str) -> None:
    recipe = {
        "maxSteps": 20,
        "learningRate": 1e-3,
        "effectiveBatchSize": 8,
        "advanced": {"backend": backend, "saveSteps": 20, "optimizer": "adamw_torch", **FLOAT32},
    }
    plain = make(training=tiny_merged(recipe, {"microBatchSize": 8}))
    plain.with_fault(unsloth_in_float32).succeed("prepare")
    plain.succeed("train")
    expected = losses(plain)
    assert len(expected) == 20
    for fault, last in (
        (OutOfMemoryAbove(rows=1), "micro-batch size 2; retrying with micro-batch size 1"),
        (
            OutOfMemoryAbove(rows=0, unless_offloaded=True),
            "micro-batch size 1; retrying with micro-batch size 1, activations in host memory",
        ),
    ):
        laddered = make(training=tiny_merged(recipe, {}))
        laddered.with_fault(unsloth_in_float32).succeed("prepare")
        ended = laddered.with_fault(fault).run("train")
        assert ended.code == 0, ended.log
        assert f"ran out of memory with {last}\n" in ended.log
        found = losses(laddered)
        assert max(abs(a - b) for a, b in zip(expected, found, strict=True)) < 1e-5


def tiny_merged(recipe: dict[str, object], advanced: dict[str, object]) -> dict[str, object]:
    inner = recipe["advanced"]
    assert isinstance(inner, dict)
    return recipe | {"advanced": inner | advanced}


def losses(workshop: Workshop) -> list[float]:
    state = json.loads((newest(workshop) / "trainer_state.json").read_text())
    return [float(each["loss"]) for each in state["log_history"] if "loss" in each]


def test_resume_uses_the_memory_settings_of_its_checkpoint(make: MakeWorkshop) -> None:
    workshop = make(training={"maxSteps": 14, "advanced": {"saveSteps": 2}})
    workshop.succeed("prepare")
    fault = OutOfMemoryAbove(rows=0, unless_offloaded=True)
    running = workshop.with_fault(fault).start("train")
    running.until(step_reached(workshop, 2))
    kill(running)
    facts = manifest.read(newest(workshop)).facts
    assert (facts["microBatch"], facts["offload"]) == (1, True)
    before = (workshop.folder / "log").read_text()
    ended = workshop.with_fault(fault).run("train")
    assert ended.code == 0, ended.log
    assert "out of memory" not in ended.log.removeprefix(before)
    facts = manifest.read(workshop.work / "adapter").facts
    assert (facts["microBatch"], facts["offload"]) == (1, True)


def test_exhausted_fallback_fails_with_the_peak_memory(make: MakeWorkshop) -> None:
    workshop = make()
    workshop.succeed("prepare")
    ended = workshop.with_fault(OutOfMemoryAbove(rows=0)).run("train")
    assert (ended.code, ended.result["reason"]) == (80, "CUDAOutOfMemory")
    used = "with 128 tokens per row and micro-batch size 1, activations in host memory"
    assert used in ended.message
    assert "GiB were allocated; " in ended.message
    assert "; the estimate was " in ended.message
