"""``train``: trains the adapter of a prepared job. The only stage that holds a GPU.

The process may be killed at any moment. The next attempt resumes from the newest intact checkpoint
and ends with the same bytes as an uninterrupted run. The stage succeeds only if every planned step
is done or early stopping ended the training.

Who calls whom, from the stage to a step::

    train.run                        publish the adapter, or say why the training stopped
      OomFallback.run                repeat with smaller settings if CUDA is out of memory
        TrlBackend.train             or UnslothBackend.train: how the 4-bit model is made
          sft.train                  load the model, make the trainer, save the adapter
            resume.run               load the checkpoint, and repeat an evaluation that it lacks
              Trainer.train          the loop over the steps, by transformers and TRL
                MonitorCallback      after each step: checkpoint_folder.save, held_out.evaluate
                  Monitor            decide what to do, fail on a loss that is not finite

A checkpoint returns the same way: ``sft`` gives its folder to ``_Run._publish_checkpoint``.
"""

import gc
from collections.abc import Callable, Mapping
from pathlib import Path

from finetune_api.contracts.job_config import JobConfig
from finetune_api.contracts.result import Result
from finetune_api.contracts.stage_request import TrainStageRequest
from finetune_trainer.attention import choice as attention_choice
from finetune_trainer.checkpointing import checkpoints, manifest, published
from finetune_trainer.compatibility import backend_choice, gradient_checkpointing
from finetune_trainer.data.token_store import HELD_OUT, TRAIN, Tokens
from finetune_trainer.devices import capabilities, device
from finetune_trainer.errors import CudaOutOfMemory, LossDiverged, Stopped, Transient
from finetune_trainer.models import text_model
from finetune_trainer.reporting import event_file
from finetune_trainer.reporting.event_file import EventFile
from finetune_trainer.reporting.loss_history import LossHistory
from finetune_trainer.runtime.log import log
from finetune_trainer.runtime.progress import Progress
from finetune_trainer.runtime.signals import StopRequest
from finetune_trainer.training import backends, base_check, results
from finetune_trainer.training.gpu_usage import GpuUsage, ending
from finetune_trainer.training.loop.early_stopping import EvaluationHistory
from finetune_trainer.training.loop.monitor import Cadence, Monitor
from finetune_trainer.training.oom_fallback import MemorySettings, OomFallback
from finetune_trainer.volume.disk import human
from finetune_trainer.volume.files import fresh
from finetune_trainer.volume.volume_errors import translate_volume_errors
from finetune_trainer.volume_layout import Layout


def run(
    job: JobConfig,
    layout: Layout,
    progress: Progress,
    stop: StopRequest,
    request: TrainStageRequest,
    *,
    gpu_held_since: float = 0.0,
) -> Result:
    """Train a job, or return the result of an earlier attempt that published its adapter.

    gpu_held_since: age of this process, in seconds, from which its GPU is counted.
    """
    with translate_volume_errors(layout.work, "training"):
        trained = manifest.valid(layout.adapter, kind=published.ADAPTER, key=job.digest)
        if trained is not None:
            progress.ratio(1.0)
            progress.enter("reference")
            return results.result(trained, layout, "the adapter is already trained")
        prepared = base_check.prepared(layout, job, request)
        # Before the libraries load: a pod without its GPU must not load the model on its CPU.
        progress.runs_on(device.detect().product)
        usage = GpuUsage(layout.usage, held_since=gpu_held_since)
        progress.retried(usage.retries)
        with ending(usage):
            usage.record()
            backend = backend_choice.load(layout.dataset)
            job = backend_choice.follow(job, backend)
            base = base_check.start(layout, prepared[0])
            budget = request.max_gpu_seconds
            run = _Run(job, layout, progress, stop, usage, prepared, budget, base)
            run.warnings += backend_choice.version_warnings(backend)
            return run.result(request.images)


class _Run:
    """One attempt at a training."""

    def __init__(
        self,
        job: JobConfig,
        layout: Layout,
        progress: Progress,
        stop: StopRequest,
        usage: GpuUsage,
        prepared: tuple[manifest.Manifest, manifest.Manifest],
        budget: float | None,
        require_base: Callable[[], None],
    ) -> None:
        self.layout, self.progress, self.stop = layout, progress, stop
        self.usage, self.budget, self.require_base = usage, budget, require_base
        self.base, self.data = prepared
        estimate = self.data.facts.get(published.ESTIMATE_FACT)
        self.job = gradient_checkpointing.follow(job, estimate)
        self.max_steps: int = self.data.facts["plannedSteps"]
        self.backend = backends.load(job.training)
        self.key = f"{job.digest} {self.data.digest}"
        self.start = self.data.facts.get(published.START_FACT)
        if self.start is not None:
            self.key += f" {self.start['digest']}"
        self.warnings: list[str] = []
        self.oom_fallback = OomFallback(
            effective_batch=job.training.effective_batch_size,
            micro_batch_fixed=job.training.advanced.micro_batch_size is not None,
            can_offload=self.backend.can_offload(job.training),
            can_recompute=gradient_checkpointing.is_off_by_estimate(job, estimate),
        )
        self.memory = MemorySettings.initial(job.training, self._checkpoint(), estimate)
        self.evaluations = self._evaluations(None)
        self.history = LossHistory()
        self.events: EventFile

    def result(self, images: Mapping[str, str]) -> Result:
        with base_check.required(self.require_base):
            trained = self._train_with_rollback()
        if not trained.complete:
            self._raise_why_it_stopped(trained.step)
        self.progress.enter("saving")
        finished = results.CompletedTraining(
            job=self.job,
            layout=self.layout,
            base=self.base,
            data=self.data,
            max_steps=self.max_steps,
            memory=self.memory,
            versions=self.backend.versions(),
            evaluations=self.evaluations,
            history=self.history,
            loss=self.progress.get("train_loss"),
            gpu_seconds=self.usage.record(),
            trained=trained,
            warnings=self.warnings,
        )
        adapter = results.publish(finished, images)
        self.progress.enter("reference")
        return results.result(adapter, self.layout, finished.message)

    def _train_with_rollback(self) -> backends.TrainOutput:
        """Train; after a value that is not finite, retry once from the last good checkpoint.

        A bit flip in GPU memory does not recur; a recipe that diverges does.
        """
        try:
            return self._train_with_oom_fallback()
        except LossDiverged as error:
            log(f"{error}; retrying once from the last good checkpoint")
            # The traceback references the model and would keep it in GPU memory.
            error.__traceback__ = None
        gc.collect()
        self._count_retry("loss_diverged")
        return self._train_with_oom_fallback()

    def _count_retry(self, cause: str) -> None:
        self.usage.retry(cause)
        self.progress.retried(self.usage.retries)

    def _train_with_oom_fallback(self) -> backends.TrainOutput:
        try:
            return self.oom_fallback.run(self._attempt, self.memory, too_large=backends.OutOfMemory)
        except backends.OutOfMemory as error:
            raise CudaOutOfMemory(
                f"CUDA ran out of memory with {self.job.training.sequence_length} tokens per row "
                f"and {self.memory} ({error}{self._estimated()}): "
                f"{self.oom_fallback.advice(self.memory)}"
            ) from None

    def _estimated(self) -> str:
        estimate = self.data.facts.get(published.ESTIMATE_FACT)
        return f"; the estimate was {human(estimate['trainingBytes'])}" if estimate else ""

    def _attempt(self, memory: MemorySettings) -> backends.TrainOutput:
        if memory != self.memory:
            self._count_retry("out_of_memory")
        self.memory = memory
        checkpoint = self._checkpoint()
        self.history = LossHistory.load(checkpoint.path) if checkpoint else LossHistory()
        self.progress.history = self.history.series
        self.evaluations = self._evaluations(checkpoint)
        monitor = self._monitor()
        monitor.require_budget(step=checkpoint.step if checkpoint else 0)
        if checkpoint is not None:
            log(f"resuming from the checkpoint of step {checkpoint.step}")
            last = self.evaluations.last
            self.progress.set(
                last_checkpoint_step=checkpoint.step,
                train_loss=checkpoint.facts["loss"],
                eval_loss=last.loss if last else None,
            )
        held_out = self.layout.dataset / HELD_OUT
        packed, config = self.data.facts["packed"], text_model.described(self.layout.base)
        request = backends.TrainRequest(
            base=self.layout.base,
            source=self.base.facts["source"].removeprefix("hf://"),
            commit=self.base.facts["baseCommit"],
            recipe=self.job.training,
            packed=packed,
            attention=attention_choice.load(self.layout.dataset, config, packed=packed),
            train=Tokens.load(self.layout.dataset / TRAIN),
            held_out=Tokens.load(held_out) if held_out.is_file() else None,
            max_steps=self.max_steps,
            memory=memory,
            scratch=self.layout.scratch("checkpoint"),
            start=None if self.start is None else self.layout.start,
            checkpoint=checkpoint,
            publish_checkpoint=self._publish_checkpoint,
            checkpoint_of=lambda at: checkpoints.of_step(self.layout.checkpoints, at, key=self.key),
        )
        self.events = EventFile(self.layout.tensorboard / event_file.FILE, self.history)
        try:
            return self.backend.train(request, monitor, fresh(self.layout.scratch("adapter")))
        finally:
            self.stop.end_deferral()
            self.events.close()

    def _monitor(self) -> Monitor:
        recipe = self.job.training
        return Monitor(
            cadence=Cadence.of(
                recipe,
                max_steps=self.max_steps,
                sequences=self.data.facts["sequences"],
                evaluates=self.data.facts["validationRows"] > 0,
            ),
            progress=self.progress,
            usage=self.usage,
            evaluations=self.evaluations,
            stop=self.stop,
            budget=self.budget,
            learning_rate=recipe.learning_rate,
            scales_loss=capabilities.scales_loss(recipe, device.detect()),
            history=self.history,
            memory_peak=device.memory_peak,
        )

    def _evaluations(self, checkpoint: checkpoints.Checkpoint | None) -> EvaluationHistory:
        return EvaluationHistory.from_facts(
            checkpoint.facts["evaluations"] if checkpoint else (),
            patience=self.job.training.advanced.early_stopping_patience,
        )

    def _checkpoint(self) -> checkpoints.Checkpoint | None:
        checkpoint = checkpoints.newest(
            self.layout.checkpoints,
            key=self.key,
            versions=self.backend.versions(),
            warn=self._warn,
        )
        if checkpoint is not None:
            # Warnings of earlier attempts come first; checkpoints of older images have none.
            warnings = [*checkpoint.facts.get("warnings", ()), *self.warnings]
            self.warnings = list(dict.fromkeys(warnings))
        return checkpoint

    def _warn(self, text: str) -> None:
        log(text)
        self.warnings.append(text)

    def _publish_checkpoint(self, scratch: Path, step: int) -> None:
        self.require_base()
        self.layout.checkpoints.mkdir(exist_ok=True)
        self.history.save(scratch)
        self.events.flush()
        best = self.evaluations.best
        checkpoints.save(
            self.layout.checkpoints,
            scratch,
            step=step,
            key=self.key,
            facts={
                "step": step,
                "microBatch": self.memory.micro_batch,
                "offload": self.memory.offload,
                "recompute": self.memory.recompute,
                "versions": self.backend.versions(),
                "loss": self.progress.get("train_loss"),
                "evaluations": self.evaluations.as_facts(),
                "warnings": self.warnings,
            },
            spare=best.step if best else None,
        )

    def _raise_why_it_stopped(self, step: int) -> None:
        if self.stop.requested:
            raise Stopped(f"stopped at step {step} of {self.max_steps}; the checkpoint is kept")
        self._monitor().require_budget(step=step)
        raise Transient(
            f"the training ended at step {step} of {self.max_steps} for an unknown reason: the "
            "operator retries the stage from its checkpoint"
        )
