"""``train``: the adapter of a staged job, on the one stage that holds a GPU.

It may be killed at any moment: the next attempt goes on from the newest checkpoint that is whole,
and ends with the bytes that an uninterrupted run would have ended with. It succeeds only when every
planned step was done.
"""

import math
import shutil
from pathlib import Path
from typing import Any

from finetune_api.job import JobConfig
from finetune_api.result import Result
from finetune_trainer import (
    backends,
    checkpoints,
    describe,
    device,
    manifest,
    reference,
    stage,
    stage_estimate,
    stage_rows,
)
from finetune_trainer.curves import Curves
from finetune_trainer.dataset import HELD_OUT, TRAIN, Tokens
from finetune_trainer.errors import (
    CudaOutOfMemory,
    ResumeRefused,
    Stopped,
    Transient,
    full_volume_named,
)
from finetune_trainer.guards import Cadence, Monitor, shrink_until_it_fits
from finetune_trainer.layout import Layout
from finetune_trainer.model_card import Story
from finetune_trainer.progress import Progress, log
from finetune_trainer.signals import StopRequest
from finetune_trainer.usage import Usage, ending

KIND = "adapter"
DEFAULT_MICRO_BATCH = 2
SAVE_AT_LEAST_EVERY = 100


def run(
    job: JobConfig,
    layout: Layout,
    progress: Progress,
    stop: StopRequest,
    *,
    max_gpu_seconds: float | None = None,
) -> Result:
    """Train a job, or find that it is trained already."""
    found = manifest.valid(layout.adapter, kind=KIND, key=job.revision)
    if found is not None:
        progress.ratio(1.0)
        with full_volume_named(layout.work, "recording the reference"):
            return _result(found, layout, "trained already")
    staged = stage.staged(layout, job, hashes=False)
    if staged is None:
        raise ResumeRefused(
            "the volume holds no intact base and dataset of this revision: run the stage command "
            "again"
        )
    usage = Usage(layout.usage)
    progress.retried(usage.retries)
    with full_volume_named(layout.work, "training"), ending(usage):
        usage.record()
        return _Run(job, layout, progress, stop, usage, staged, max_gpu_seconds).result()


class _Run:
    """One attempt at a training."""

    def __init__(
        self,
        job: JobConfig,
        layout: Layout,
        progress: Progress,
        stop: StopRequest,
        usage: Usage,
        staged: tuple[manifest.Manifest, manifest.Manifest],
        budget: float | None,
    ) -> None:
        self.job, self.layout, self.progress, self.stop = job, layout, progress, stop
        self.usage, self.budget = usage, budget
        self.base, self.data = staged
        self.max_steps: int = self.data.facts["plannedSteps"]
        self.backend = backends.load(job.training.advanced.backend)
        self.key = f"{job.revision} {self.data.digest}"
        self.micro_batch = 0
        self.curves = Curves()

    def result(self) -> Result:
        written = self.job.training.advanced.micro_batch_size
        picked = (self.data.facts.get(stage_estimate.FACT) or {}).get("microBatch")
        # Without an estimate the family is not known; the smallest batches are the safe ones.
        cautious = math.gcd(DEFAULT_MICRO_BATCH, self.job.training.effective_batch_size)
        start = written or picked or cautious
        checkpoint = self._checkpoint()
        if checkpoint is not None:
            start = min(start, checkpoint.facts["microBatch"])
        try:
            trained = shrink_until_it_fits(
                self._attempt,
                micro_batch=start,
                written=written is not None,
                too_large=backends.TooLarge,
            )
        except backends.TooLarge as error:
            advice = "use a card with more memory, or lower training.sequenceLength"
            if written is not None and written > 1:
                advice = "lower training.advanced.microBatchSize, or leave it out"
            raise CudaOutOfMemory(
                f"CUDA ran out of memory at micro-batch {self.micro_batch} of "
                f"{self.job.training.sequence_length} tokens ({error}): {advice}"
            ) from None
        if trained.step < self.max_steps:
            self._say_why_it_stopped(trained.step)
        return self._publish(trained)

    def _attempt(self, micro_batch: int) -> backends.Trained:
        if self.micro_batch:
            self.usage.retry("out_of_memory")
            self.progress.retried(self.usage.retries)
        self.micro_batch = micro_batch
        checkpoint = self._checkpoint()
        self.curves = Curves.load(checkpoint.path) if checkpoint else Curves()
        monitor = self._monitor()
        monitor.refuse_over_budget(step=checkpoint.step if checkpoint else 0)
        if checkpoint is not None:
            log(f"going on from the checkpoint of step {checkpoint.step}")
            self.progress.set(
                last_checkpoint_step=checkpoint.step,
                train_loss=checkpoint.facts.get("loss"),
                eval_loss=checkpoint.facts.get("evalLoss"),
            )
        held_out = self.layout.dataset / HELD_OUT
        order = backends.Order(
            base=self.layout.base,
            source=self.base.facts["source"].removeprefix("hf://"),
            commit=self.base.facts["baseCommit"],
            recipe=self.job.training,
            packed=self.data.facts["packed"],
            train=Tokens.load(self.layout.dataset / TRAIN),
            held_out=Tokens.load(held_out) if held_out.is_file() else None,
            max_steps=self.max_steps,
            micro_batch=micro_batch,
            scratch=self.layout.scratch("checkpoint"),
            checkpoint=checkpoint,
            publish_checkpoint=self._publish_checkpoint,
        )
        scratch = manifest.fresh(self.layout.scratch("adapter"))
        # Loading is quick to do again; from the first step on there is something to save.
        with self.stop.deferred():
            return self.backend.train(order, monitor, scratch)

    def _monitor(self) -> Monitor:
        recipe = self.job.training
        per_epoch = math.ceil(self.data.facts["sequences"] / recipe.effective_batch_size)
        evaluates = self.data.facts["validationRows"] > 0
        tenth = math.ceil(self.max_steps / 10)
        return Monitor(
            cadence=Cadence(
                max_steps=self.max_steps,
                eval_steps=(recipe.advanced.eval_steps or per_epoch) if evaluates else None,
                save_steps=recipe.advanced.save_steps or min(SAVE_AT_LEAST_EVERY, tenth),
            ),
            progress=self.progress,
            usage=self.usage,
            stop=self.stop,
            budget=self.budget,
            learning_rate=recipe.learning_rate,
            scales_loss=self.backend.scales_loss(recipe),
            curves=self.curves,
            memory_peak=device.memory_peak,
        )

    def _checkpoint(self) -> checkpoints.Checkpoint | None:
        return checkpoints.newest(
            self.layout.checkpoints, key=self.key, versions=self.backend.versions()
        )

    def _publish_checkpoint(self, scratch: Path, step: int) -> None:
        self.layout.checkpoints.mkdir(exist_ok=True)
        self.curves.save(scratch)
        checkpoints.save(
            self.layout.checkpoints,
            scratch,
            step=step,
            key=self.key,
            facts={
                "step": step,
                "microBatch": self.micro_batch,
                "versions": self.backend.versions(),
                "loss": self.progress.get("train_loss"),
                "evalLoss": self.progress.get("eval_loss"),
            },
        )

    def _say_why_it_stopped(self, step: int) -> None:
        if self.stop.requested:
            raise Stopped(f"stopped at step {step} of {self.max_steps}; its checkpoint is kept")
        self._monitor().refuse_over_budget(step=step)
        raise Transient(
            f"the training ended at step {step} of {self.max_steps} for no known reason: it goes "
            "on from its checkpoint"
        )

    def _publish(self, trained: backends.Trained) -> Result:
        quantization = self.job.training.advanced.quantization
        template = self.layout.dataset / stage_rows.TEMPLATE
        scratch = self.layout.scratch("adapter")
        if template.is_file():
            shutil.copyfile(template, scratch / template.name)
        if trained.quantized.scales:
            trained.quantized.save(scratch)
        facts: dict[str, Any] = {
            "source": self.base.facts["source"],
            "baseCommit": self.base.facts["baseCommit"],
            "datasetDigest": self.data.digest,
            "globalStep": trained.step,
            "maxSteps": self.max_steps,
            "loss": self.progress.get("train_loss"),
            "evalLoss": self.progress.get("eval_loss"),
            "gpuSeconds": round(self.usage.record(), 1),
            "microBatch": self.micro_batch,
            "attention": trained.attention,
            "device": trained.device,
            "versions": self.backend.versions(),
            "quantizedModules": dict(trained.quantized.digests),
            "quantization": quantization.model_dump(mode="json", by_alias=True),
            "warnings": self.data.facts["warnings"],
        }
        story = Story(
            job=self.job,
            base=self.base.facts,
            data=self.data.facts,
            trained=facts,
            curves=self.curves,
            peak=device.memory_peak(),
        )
        facts["warnings"] = [*facts["warnings"], *describe.write(scratch, story)]
        published = manifest.publish(
            scratch, self.layout.adapter, kind=KIND, key=self.job.revision, facts=facts
        )
        manifest.sweep(self.layout.work)
        return _result(published, self.layout, f"all {self.max_steps} steps are done")


def _result(adapter: manifest.Manifest, layout: Layout, message: str) -> Result:
    """Record the reference, which a kill may have cut off, and say what was trained."""
    facts = adapter.facts
    recorded = reference.ensure(layout, adapter)
    total = max(facts["gpuSeconds"], recorded.seconds)
    log(
        f"the reference took {recorded.seconds:.1f} s, "
        f"{100 * recorded.seconds / total:.1f} % of the GPU's {total:.0f} s"
    )
    return Result(
        stage="train",
        outcome="completed",
        reason="Completed",
        message=message,
        global_step=facts["globalStep"],
        max_steps=facts["maxSteps"],
        loss=facts["loss"],
        eval_loss=facts["evalLoss"],
        gpu_seconds=facts["gpuSeconds"],
        artifacts={
            "adapter": adapter.digest,
            "baseCommit": facts["baseCommit"],
            "datasetDigest": facts["datasetDigest"],
            **({"evaluation": recorded.evaluation} if recorded.evaluation else {}),
        },
        warnings=[*facts["warnings"], *recorded.warnings],
    )
