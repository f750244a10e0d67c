"""What ends a training early, and what a step's end asks for. Free of torch.

The stock stack hides a NaN (it logs a loss of 0 and goes on), forgets the budget, and takes a stop
for a success. Here every report and every step's end goes through one ``Monitor``.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from finetune_trainer.errors import BudgetExceeded, LossDiverged
from finetune_trainer.reporting.loss_history import Curves
from finetune_trainer.runtime.gpu_usage import GpuUsage
from finetune_trainer.runtime.progress import Progress, duration, log
from finetune_trainer.runtime.signals import StopRequest
from finetune_trainer.training.early_stopping import Evaluations

RECORD_SECONDS = 5.0
"""GPU seconds that a kill may make the record forget."""
SCALER_PATIENCE = 20
"""Steps in a row that float16's loss scaling may skip while it looks for a scale that fits."""


@dataclass(frozen=True, kw_only=True)
class Cadence:
    """Steps in all, and steps between evaluations (None: no held-out rows) and checkpoints."""

    max_steps: int
    eval_steps: int | None
    save_steps: int


@dataclass(frozen=True, kw_only=True)
class StepEnd:
    """What has to be done now that a step is done."""

    save: bool
    evaluate: bool
    stop: bool


class Monitor:
    """Watches one training run."""

    def __init__(
        self,
        *,
        cadence: Cadence,
        progress: Progress,
        usage: GpuUsage,
        evaluations: Evaluations,
        stop: StopRequest,
        budget: float | None,
        learning_rate: float,
        scales_loss: bool,
        curves: Curves,
        memory_peak: Callable[[], int | None],
    ) -> None:
        """``evaluations`` are those of earlier attempts; ``budget`` is in GPU seconds.

        scales_loss: whether float16 is trained. memory_peak: returns the most GPU memory so far in
        bytes, None where there is no GPU.
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
        self._finite: tuple[int, float] | None = None
        self._tokens = 0.0
        self._since = time.monotonic()
        self._curves = curves
        self._memory_peak = memory_peak
        self._ready = self._step_began = self._since
        self._waited = 0.0

    def begin(self, step: int) -> None:
        """Start at ``step``, 0 or a checkpoint's; from here on a stop waits for a step's end.

        Raises Stopped where the process was asked to stop before.
        """
        self._stop.defer()
        self._since = self._ready = time.monotonic()
        self._progress.start_from(step / self._cadence.max_steps)
        self._progress.set(global_step=step, max_steps=self._cadence.max_steps)

    def step_begin(self) -> None:
        """Record that a step's rows are there: what passed since the last one was the wait."""
        self._step_began = time.monotonic()
        self._waited += self._step_began - self._ready
        self._progress.set(data_wait_seconds=self._waited)

    def step_over(self) -> None:
        """Record that all that a step's end asked for is done, and the next rows are awaited."""
        self._ready = time.monotonic()

    def step_end(self, step: int) -> StepEnd:
        """Say what a finished step asks for."""
        self._progress.set(step_seconds=time.monotonic() - self._step_began)
        cadence = self._cadence
        last = step >= cadence.max_steps
        self._progress.set(global_step=step, gpu_seconds=self._usage.gpu_seconds)
        self._progress.ratio(step / cadence.max_steps)
        stop = not last and (self._stop.requested or self.over_budget)
        evaluate = not stop and self.evaluation_due(step)
        # The adapter of an evaluation that turns out to be the best must still be there at the end.
        keep = evaluate and self.evaluations.keeps_best
        return StepEnd(
            save=last or stop or keep or step % cadence.save_steps == 0,
            evaluate=evaluate,
            stop=stop,
        )

    def evaluation_due(self, step: int) -> bool:
        """Tell whether the held-out rows are to be looked at after ``step``."""
        every = self._cadence.eval_steps
        return every is not None and (step >= self._cadence.max_steps or step % every == 0)

    @property
    def stop_requested(self) -> bool:
        """Whether the process was asked to stop."""
        return self._stop.requested

    @property
    def over_budget(self) -> bool:
        """Whether the GPU seconds are spent."""
        return self._budget is not None and self._usage.gpu_seconds >= self._budget

    def refuse_over_budget(self, *, step: int) -> None:
        """Raise BudgetExceeded where the GPU seconds are spent."""
        if self.over_budget:
            raise BudgetExceeded(
                f"{self._usage.gpu_seconds:.0f} GPU seconds are spent at step {step} of "
                f"{self._cadence.max_steps}, runPolicy.maxGpuSeconds is {self._budget:.0f}; the "
                "checkpoint is kept: raise it to go on from there"
            )

    def logged(
        self,
        step: int,
        *,
        loss: float,
        grad_norm: float | None,
        rate: float | None,
        epoch: float,
        tokens: float | None,
    ) -> None:
        """Record a report; raise LossDiverged where a figure is not finite."""
        self._refuse_non_finite(step, loss, grad_norm)
        now = time.monotonic()
        speed = None
        if tokens is not None:
            if tokens > self._tokens > 0 and now > self._since:
                speed = (tokens - self._tokens) / (now - self._since)
            self._tokens = tokens
        self._since = now
        self._finite = (step, loss)
        if grad_norm is not None and not math.isfinite(grad_norm):
            # Loss scaling skipped the step.
            grad_norm = None
        self._curves.add(step, loss=loss, learningRate=rate, gradNorm=grad_norm)
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
            f"step {step}/{self._cadence.max_steps}  loss {loss:.4f}  lr {rate or 0:.2e}  "
            f"grad {grad_norm if grad_norm is not None else float('nan'):.3f}  "
            f"{f'{speed:.0f}' if speed else '?'} tok/s  "
            f"ETA {duration(self._progress.get('eta_seconds'))}"
        )

    def evaluated(self, step: int, loss: float) -> None:
        """Record an evaluation."""
        if not math.isfinite(loss):
            raise LossDiverged(self._diverged(step, f"the loss on the held-out rows is {loss}"))
        self._curves.add(step, evalLoss=loss)
        self.evaluations.add(step, loss)
        self._progress.set(eval_loss=loss)
        log(f"step {step}/{self._cadence.max_steps}  loss on held-out rows {loss:.4f}")

    def saved(self, step: int) -> None:
        """Record a published checkpoint."""
        self._progress.checkpoint_published(step)
        self._usage.record()

    def weights_not_finite(self, step: int, name: str) -> LossDiverged:
        """Return the error for an adapter weight that is not finite."""
        return LossDiverged(self._diverged(step, f"adapter weight {name} is not finite"))

    def _refuse_non_finite(self, step: int, loss: float, grad_norm: float | None) -> None:
        if not math.isfinite(loss):
            raise LossDiverged(self._diverged(step, f"the loss is {loss}"))
        if grad_norm is not None and not math.isfinite(grad_norm):
            self._skipped += 1
            if self._skipped > self._patience:
                raise LossDiverged(
                    self._diverged(step, f"the norm of the gradients is {grad_norm}")
                )
            return
        self._skipped = 0

    def _diverged(self, step: int, what: str) -> str:
        last = (
            f" (last good: {self._finite[1]:.4f} at step {self._finite[0]})" if self._finite else ""
        )
        return (
            f"{what} at step {step}{last}: lower training.learningRate "
            f"({self._learning_rate:g} now) or raise training.advanced.warmupRatio"
        )
