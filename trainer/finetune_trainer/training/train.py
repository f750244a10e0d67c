"""``train``: the adapter of a staged job, on the one stage that holds a GPU.

It may be killed at any moment: the next attempt goes on from the newest checkpoint that is whole,
and ends with the bytes that an uninterrupted run would have ended with. It succeeds only when every
planned step was done.
"""

import gc
import math
from pathlib import Path

from finetune_api.contracts.job_config import JobConfig
from finetune_api.contracts.result import Result
from finetune_trainer.checkpointing import checkpoints, manifest, published
from finetune_trainer.data.token_store import HELD_OUT, TRAIN, Tokens
from finetune_trainer.errors import CudaOutOfMemory, LossDiverged, ResumeRefused, Stopped, Transient
from finetune_trainer.reporting.loss_history import Curves
from finetune_trainer.runtime import device
from finetune_trainer.runtime.disk import human
from finetune_trainer.runtime.files import fresh
from finetune_trainer.runtime.gpu_usage import GpuUsage, ending
from finetune_trainer.runtime.progress import Progress, log
from finetune_trainer.runtime.signals import StopRequest
from finetune_trainer.runtime.volume_errors import translate_volume_errors
from finetune_trainer.training import backends, results
from finetune_trainer.training.early_stopping import Evaluations
from finetune_trainer.training.monitor import Cadence, Monitor
from finetune_trainer.training.oom_fallback import Ladder, Rung
from finetune_trainer.training.results import Finished
from finetune_trainer.volume_layout import Layout

DEFAULT_MICRO_BATCH = 2
SAVE_AT_LEAST_EVERY = 100


def run(
    job: JobConfig,
    layout: Layout,
    progress: Progress,
    stop: StopRequest,
    *,
    max_gpu_seconds: float | None = None,
    gpu_held_since: float = 0.0,
) -> Result:
    """Train a job, or find that it is trained already.

    begun: the age of this process, in seconds, from which on its GPU is counted.
    """
    with translate_volume_errors(layout.work, "training"):
        found = manifest.valid(layout.adapter, kind=published.ADAPTER, key=job.revision)
        if found is not None:
            progress.ratio(1.0)
            return results.result(found, layout, "trained already")
        staged = published.prepared(layout, job, hashes=False)
        if staged is None:
            raise ResumeRefused(
                "the volume holds no intact base and dataset of this revision: run the stage "
                "command again"
            )
        usage = GpuUsage(layout.usage, held_since=gpu_held_since)
        progress.retried(usage.retries)
        with ending(usage):
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
        usage: GpuUsage,
        staged: tuple[manifest.Manifest, manifest.Manifest],
        budget: float | None,
    ) -> None:
        self.job, self.layout, self.progress, self.stop = job, layout, progress, stop
        self.usage, self.budget = usage, budget
        self.base, self.data = staged
        self.max_steps: int = self.data.facts["plannedSteps"]
        self.backend = backends.load(job.training.advanced.backend)
        self.key = f"{job.revision} {self.data.digest}"
        self.warnings: list[str] = []
        self.ladder = Ladder(
            effective_batch=job.training.effective_batch_size,
            written=job.training.advanced.micro_batch_size is not None,
            can_offload=self.backend.can_offload(job.training),
        )
        self.rung = self._first_rung()
        self.evaluations = self._evaluations(None)
        self.curves = Curves()

    def result(self) -> Result:
        trained = self._rolled_back_once()
        if not trained.complete:
            self._say_why_it_stopped(trained.step)
        finished = Finished(
            job=self.job,
            layout=self.layout,
            base=self.base,
            data=self.data,
            max_steps=self.max_steps,
            rung=self.rung,
            versions=self.backend.versions(),
            evaluations=self.evaluations,
            curves=self.curves,
            loss=self.progress.get("train_loss"),
            gpu_seconds=self.usage.record(),
            trained=trained,
            warnings=self.warnings,
        )
        adapter = results.publish(finished)
        return results.result(adapter, self.layout, finished.message)

    def _first_rung(self) -> Rung:
        """Start where the last checkpoint was: a rung that did not fit once is not tried again."""
        checkpoint = self._checkpoint()
        if checkpoint is not None:
            return Rung(
                micro_batch=checkpoint.facts["microBatch"], offload=checkpoint.facts["offload"]
            )
        recipe = self.job.training
        written = recipe.advanced.micro_batch_size
        picked = (self.data.facts.get(published.ESTIMATE_FACT) or {}).get("microBatch")
        # Without an estimate the family is not known; the smallest batches are the safe ones.
        cautious = math.gcd(DEFAULT_MICRO_BATCH, recipe.effective_batch_size)
        return Rung(micro_batch=written or picked or cautious)

    def _rolled_back_once(self) -> backends.Trained:
        """Train; after a figure that is not finite, once more from the last good checkpoint.

        A bit that flipped in the card's memory does not come again; a recipe that diverges does.
        """
        try:
            return self._on_a_rung_that_fits()
        except LossDiverged as error:
            log(f"{error}; going back to the last good checkpoint, once")
            # The traceback holds the model.
            error.__traceback__ = None
        gc.collect()
        self._begun_again("loss_diverged")
        return self._on_a_rung_that_fits()

    def _begun_again(self, cause: str) -> None:
        self.usage.retry(cause)
        self.progress.retried(self.usage.retries)

    def _on_a_rung_that_fits(self) -> backends.Trained:
        try:
            return self.ladder.climb_down(self._attempt, self.rung, too_large=backends.TooLarge)
        except backends.TooLarge as error:
            advice = "use a card with more memory, or lower training.sequenceLength"
            if self.ladder.written and self.rung.micro_batch > 1:
                advice = "lower training.advanced.microBatchSize, or leave it out"
            raise CudaOutOfMemory(
                f"CUDA ran out of memory at {self.rung} of "
                f"{self.job.training.sequence_length} tokens ({error}{self._estimated()}): {advice}"
            ) from None

    def _estimated(self) -> str:
        found = self.data.facts.get(published.ESTIMATE_FACT)
        return f"; {human(found['trainingBytes'])} were estimated" if found else ""

    def _attempt(self, rung: Rung) -> backends.Trained:
        if rung != self.rung:
            self._begun_again("out_of_memory")
        self.rung = rung
        checkpoint = self._checkpoint()
        self.curves = Curves.load(checkpoint.path) if checkpoint else Curves()
        self.evaluations = self._evaluations(checkpoint)
        monitor = self._monitor()
        monitor.refuse_over_budget(step=checkpoint.step if checkpoint else 0)
        if checkpoint is not None:
            log(f"going on from the checkpoint of step {checkpoint.step}")
            last = self.evaluations.last
            self.progress.set(
                last_checkpoint_step=checkpoint.step,
                train_loss=checkpoint.facts["loss"],
                eval_loss=last.loss if last else None,
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
            rung=rung,
            scratch=self.layout.scratch("checkpoint"),
            checkpoint=checkpoint,
            publish_checkpoint=self._publish_checkpoint,
            checkpoint_of=lambda step: checkpoints.of_step(
                self.layout.checkpoints, step, key=self.key
            ),
        )
        scratch = fresh(self.layout.scratch("adapter"))
        try:
            return self.backend.train(order, monitor, scratch)
        finally:
            self.stop.end_deferral()

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
            evaluations=self.evaluations,
            stop=self.stop,
            budget=self.budget,
            learning_rate=recipe.learning_rate,
            scales_loss=self.backend.scales_loss(recipe),
            curves=self.curves,
            memory_peak=device.memory_peak,
        )

    def _evaluations(self, checkpoint: checkpoints.Checkpoint | None) -> Evaluations:
        return Evaluations.from_facts(
            checkpoint.facts["evaluations"] if checkpoint else (),
            patience=self.job.training.advanced.early_stopping_patience,
        )

    def _checkpoint(self) -> checkpoints.Checkpoint | None:
        found = checkpoints.newest(
            self.layout.checkpoints,
            key=self.key,
            versions=self.backend.versions(),
            told=self._warn,
        )
        if found is not None:
            # Earlier attempts' come first; a checkpoint of an older image has none.
            known = [*found.facts.get("warnings", ()), *self.warnings]
            self.warnings = list(dict.fromkeys(known))
        return found

    def _warn(self, text: str) -> None:
        log(text)
        self.warnings.append(text)

    def _publish_checkpoint(self, scratch: Path, step: int) -> None:
        self.layout.checkpoints.mkdir(exist_ok=True)
        self.curves.save(scratch)
        kept = self.evaluations.kept
        checkpoints.save(
            self.layout.checkpoints,
            scratch,
            step=step,
            key=self.key,
            facts={
                "step": step,
                "microBatch": self.rung.micro_batch,
                "offload": self.rung.offload,
                "versions": self.backend.versions(),
                "loss": self.progress.get("train_loss"),
                "evaluations": self.evaluations.as_facts(),
                "warnings": self.warnings,
            },
            spare=kept.step if kept else None,
        )

    def _say_why_it_stopped(self, step: int) -> None:
        if self.stop.requested:
            raise Stopped(f"stopped at step {step} of {self.max_steps}; its checkpoint is kept")
        self._monitor().refuse_over_budget(step=step)
        raise Transient(
            f"the training ended at step {step} of {self.max_steps} for no known reason: it goes "
            "on from its checkpoint"
        )
