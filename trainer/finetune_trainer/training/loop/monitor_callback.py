"""Carry out what the monitor decides at the end of each step of a trainer."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from finetune_trainer.training.loop.monitor import Monitor, StepActions


class MonitorCallback(TrainerCallback):  # type: ignore[misc]
    """Forwards the trainer's events to the monitor, and saves, evaluates or stops.

    The actions of a step follow its log entry, in which the monitor raises on a loss that is not
    finite: nothing is saved after it. A checkpoint precedes the evaluation, which may take long.
    """

    def __init__(
        self,
        monitor: Monitor,
        *,
        save: Callable[[int], None],
        evaluate: Callable[[int], bool],
        take_token_count: Callable[[], int],
    ) -> None:
        """Monitor one trainer.

        save: publishes the checkpoint of a step. evaluate: reports the loss of a step on the
        held-out rows to the monitor; returns False if a stop interrupted it. take_token_count:
        returns the number of trained tokens since its last call.
        """
        self.monitor = monitor
        self.complete = False
        self._save = save
        self._evaluate = evaluate
        self._take_token_count = take_token_count
        self._actions: StepActions | None = None

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Report that the rows of a step have arrived."""
        self.monitor.on_step_begin()

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Request the step's actions, and the log entry that they follow."""
        self._actions = actions = self.monitor.on_step_end(state.global_step)
        control.should_log |= actions.save or actions.evaluate
        control.should_training_stop |= actions.stop

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        *,
        logs: dict[str, float],
        model: Any,
        **_: Any,
    ) -> None:
        """Report a loss and perform the step's actions; the last log entry of a run has no loss."""
        if "loss" not in logs:
            return
        self.monitor.on_log(
            state.global_step,
            loss=logs["loss"],
            grad_norm=logs.get("grad_norm"),
            rate=logs.get("learning_rate"),
            epoch=state.epoch or 0.0,
            tokens=self._take_token_count(),
        )
        actions, self._actions = self._actions, None
        if actions is not None:
            control.should_training_stop |= self._perform(actions, model, state.global_step)
        self.monitor.on_step_actions_done()

    def _perform(self, actions: StepActions, model: Any, step: int) -> bool:
        """Save and evaluate; return whether the training ends."""
        if actions.save:
            self._publish_checkpoint(model, step)
        ends = actions.stop or self.ends_at(step)
        if ends and not actions.save:
            self._publish_checkpoint(model, step)
        return ends

    def ends_at(self, step: int) -> bool:
        """Evaluate if it is due; return whether this completes the training or a stop ended it."""
        if self.monitor.evaluation_due(step) and not self._evaluate(step):
            return True
        self.complete = self.monitor.complete(step)
        return self.complete

    def _publish_checkpoint(self, model: Any, step: int) -> None:
        self.require_finite(model, step)
        self._save(step)
        self.monitor.on_save(step)

    def require_finite(self, model: Any, step: int) -> None:
        """Raise LossDiverged if an adapter weight is not finite."""
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and not torch.isfinite(parameter).all():
                raise self.monitor.non_finite_weight_error(step, name)
