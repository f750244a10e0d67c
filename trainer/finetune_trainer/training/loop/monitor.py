"""Decides at the end of each step: save, evaluate, stop, or fail on a loss that is not finite.

The stock Trainer logs a NaN as a loss of 0 and continues, has no GPU budget, and reports a stopped
run as a success. Here each log record and each end of a step passes through one ``Monitor``. This
module does not import torch.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from finetune_api.durations import duration
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.errors import BudgetExceeded, LossDiverged
from finetune_trainer.reporting.loss_history import LossHistory
from finetune_trainer.runtime.log import log
from finetune_trainer.runtime.progress import Progress
from finetune_trainer.runtime.signals import StopRequest
from finetune_trainer.training.gpu_usage import GpuUsage
from finetune_trainer.training.loop.early_stopping import EvaluationHistory

RECORD_SECONDS = 5.0
"""Interval of writing the usage file: a killed process loses at most this many GPU seconds."""
SCALER_PATIENCE = 20
"""Consecutive steps that float16 loss scaling may skip while it searches for a scale."""
SAVE_AT_LEAST_EVERY = 100
"""Most steps between two checkpoints by default."""


@dataclass(frozen=True, kw_only=True)
class Cadence:
    """Total steps, and steps between evaluations (None: no held-out rows) and checkpoints."""

    max_steps: int
    eval_steps: int | None
    save_steps: int

    @classmethod
    def of(cls, recipe: Training, *, max_steps: int, sequences: int, evaluates: bool) -> Self:
        """Return the cadence of a recipe: by default, an evaluation each epoch, ten checkpoints."""
        per_epoch = math.ceil(sequences / recipe.effective_batch_size)
        tenth = math.ceil(max_steps / 10)
        return cls(
            max_steps=max_steps,
            eval_steps=(recipe.advanced.eval_steps or per_epoch) if evaluates else None,
            save_steps=recipe.advanced.save_steps or min(SAVE_AT_LEAST_EVERY, tenth),
        )


@dataclass(frozen=True, kw_only=True)
class StepActions:
    """What to do at the end of a step."""

    save: bool
    evaluate: bool
    stop: bool


class Monitor:
    """Monitors one attempt at a training."""

    def __init__(
        self,
        *,
        cadence: Cadence,
        progress: Progress,
        usage: GpuUsage,
        evaluations: EvaluationHistory,
        stop: StopRequest,
        budget: float | None,
        learning_rate: float,
        scales_loss: bool,
        history: LossHistory,
        memory_peak: Callable[[], int | None],
    ) -> None:
        """Monitor one attempt.

        evaluations: those of earlier attempts. budget: GPU seconds over all attempts. scales_loss:
        whether float16 loss scaling is used. memory_peak: returns the peak GPU memory in bytes,
        None without a GPU.
        """
        self.evaluations = evaluations
        self._cadence = cadence
        self._progress = progress
        self._usage = usage
        self._stop = stop
        self._budget = budget
        self._learning_rate = learning_rate
        self._patience = SCALER_PATIENCE if scales_loss else 0
        self._skipped = 0
        self._last_finite: tuple[int, float] | None = None
        self._logged_at: float | None = None
        self._curves = history
        self._memory_peak = memory_peak
        self._ready = self._step_began = time.monotonic()
        self._waited = 0.0
        self._first = 1

    def on_train_begin(self, step: int) -> None:
        """Start at ``step`` (0, or that of a checkpoint); a stop now waits for the end of a step.

        Raise Stopped if a stop was requested before.
        """
        self._stop.defer()
        self._first = step + 1
        self._ready = time.monotonic()
        self._progress.start_from(step / self._cadence.max_steps)
        self._progress.set(global_step=step, max_steps=self._cadence.max_steps)

    def on_step_begin(self) -> None:
        """Record that the rows of a step have arrived, and how long they were awaited."""
        self._step_began = time.monotonic()
        self._waited += self._step_began - self._ready
        self._progress.set(data_wait_seconds=self._waited)

    def on_step_actions_done(self) -> None:
        """Record that a step's log entry and actions are done and the next rows are awaited."""
        self._ready = time.monotonic()

    def on_step_end(self, step: int) -> StepActions:
        """Return the actions that the end of a step requires."""
        self._ready = time.monotonic()
        self._progress.set(step_seconds=self._ready - self._step_began)
        cadence = self._cadence
        last = step >= cadence.max_steps
        self._progress.set(global_step=step, gpu_seconds=self._usage.gpu_seconds)
        if step == self._first:
            # It also compiles kernels, so the remaining time is estimated from the later steps.
            self._progress.start_from(step / cadence.max_steps)
        self._progress.ratio(step / cadence.max_steps)
        stop = not last and (self._stop.requested or self.over_budget)
        evaluate = not stop and self.evaluation_due(step)
        # If this evaluation turns out to be the best, its adapter must still exist at the end.
        keep = evaluate and self.evaluations.keeps_best
        return StepActions(
            save=last or stop or keep or step % cadence.save_steps == 0,
            evaluate=evaluate,
            stop=stop,
        )

    def evaluation_due(self, step: int) -> bool:
        """Report whether the held-out rows are evaluated after ``step``."""
        every = self._cadence.eval_steps
        return every is not None and (step >= self._cadence.max_steps or step % every == 0)

    def complete(self, step: int) -> bool:
        """Report whether all steps are done, or early stopping ends the training."""
        return step >= self._cadence.max_steps or self.evaluations.patience_exhausted

    @property
    def stop_requested(self) -> bool:
        """Whether the process was asked to stop."""
        return self._stop.requested

    @property
    def over_budget(self) -> bool:
        """Whether the GPU-second budget is used up."""
        return self._budget is not None and self._usage.gpu_seconds >= self._budget

    def require_budget(self, *, step: int) -> None:
        """Raise BudgetExceeded if the GPU-second budget is used up."""
        if self.over_budget:
            raise BudgetExceeded(
                f"the training used {self._usage.gpu_seconds:.0f} GPU seconds until step {step} of "
                f"{self._cadence.max_steps}, but runPolicy allows {self._budget:.0f}: to resume "
                "from the checkpoint, raise runPolicy.maxGpuSeconds, or runPolicy.maxCost if it is "
                "set"
            )

    def on_log(
        self,
        step: int,
        *,
        loss: float,
        grad_norm: float | None,
        rate: float | None,
        epoch: float,
        tokens: int,
    ) -> None:
        """Record a log entry. Raise LossDiverged if the loss or the gradient norm is not finite.

        tokens: number of tokens that were trained since the previous entry.
        """
        self._require_finite(step, loss, grad_norm)
        now = time.monotonic()
        speed = None
        # The first step of a process compiles kernels.
        if self._logged_at is not None and now > self._logged_at:
            speed = tokens / (now - self._logged_at)
        self._logged_at = now
        self._last_finite = (step, loss)
        if grad_norm is not None and not math.isfinite(grad_norm):
            # Loss scaling skipped the step.
            grad_norm = None
        self._curves.add(
            step, loss=loss, learningRate=rate, gradNorm=grad_norm, tokensPerSecond=speed
        )
        self._progress.set(
            train_loss=loss,
            grad_norm=grad_norm,
            gpu_memory_peak_bytes=self._memory_peak(),
            learning_rate=rate,
            epoch=epoch,
            tokens_per_second=speed,
        )
        self._usage.record(at_most_every=RECORD_SECONDS)
        speed = self._progress.get("tokens_per_second")
        log(
            f"step {step}/{self._cadence.max_steps} loss {loss:.4f} lr {rate or 0:.2e} "
            f"grad {grad_norm if grad_norm is not None else float('nan'):.3f} "
            f"{f'{speed:.0f}' if speed else '?'} tokens/s "
            f"ETA {duration(self._progress.get('eta_seconds'))}"
        )

    def on_evaluate(self, step: int, loss: float) -> None:
        """Record an evaluation. Raise LossDiverged if the loss is not finite."""
        if not math.isfinite(loss):
            raise LossDiverged(self._diverged(step, f"the loss on the held-out rows is {loss}"))
        self._curves.add(step, evalLoss=loss)
        self.evaluations.add(step, loss)
        self._progress.set(eval_loss=loss)
        log(f"step {step}/{self._cadence.max_steps} loss on held-out rows {loss:.4f}")

    def on_save(self, step: int) -> None:
        """Record a published checkpoint."""
        self._progress.checkpoint_published(step)
        self._usage.record()

    def non_finite_weight_error(self, step: int, name: str) -> LossDiverged:
        """Return the error for an adapter weight that is not finite."""
        return LossDiverged(self._diverged(step, f"adapter weight {name} is not finite"))

    def _require_finite(self, step: int, loss: float, grad_norm: float | None) -> None:
        if not math.isfinite(loss):
            raise LossDiverged(self._diverged(step, f"the loss is {loss}"))
        if grad_norm is not None and not math.isfinite(grad_norm):
            self._skipped += 1
            if self._skipped > self._patience:
                raise LossDiverged(self._diverged(step, f"the gradient norm is {grad_norm}"))
            return
        self._skipped = 0

    def _diverged(self, step: int, what: str) -> str:
        last = (
            f" (last finite loss: {self._last_finite[1]:.4f} at step {self._last_finite[0]})"
            if self._last_finite
            else ""
        )
        return (
            f"{what} at step {step}{last}: lower training.learningRate "
            f"(currently {self._learning_rate:g}) or raise training.advanced.warmupRatio or "
            "warmupSteps"
        )
