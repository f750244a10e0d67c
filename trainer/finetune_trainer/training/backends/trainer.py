"""TRL's SFTTrainer with published checkpoints and a bit-exact resume."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft.helpers import disable_input_dtype_casting
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from trl.trainer.sft_trainer import SFTTrainer

from finetune_trainer.data.chat_rendering import IGNORED
from finetune_trainer.errors import ResumeRefused
from finetune_trainer.models import adapter_names
from finetune_trainer.runtime.files import fresh
from finetune_trainer.training.backends import TrainRequest, library_arguments, loraplus
from finetune_trainer.training.loop.monitor import Monitor, StepActions


class Trainer(SFTTrainer):  # type: ignore[misc]
    """TRL's SFTTrainer with published checkpoints and a bit-exact resume."""

    def __init__(self, *, request: TrainRequest, monitor: Monitor, **stock: Any) -> None:
        """Create a trainer; ``stock`` are the arguments of TRL's own."""
        self.request = request
        self.monitor = monitor
        self.actions: StepActions | None = None
        self.complete = False
        self._tokens = torch.zeros((), dtype=torch.long)
        super().__init__(**stock)

    def run(self) -> None:
        """Train to the end, from the request's checkpoint or from the first step."""
        # Autocast chooses the types. PEFT checks CUDA's autocast only: on a CPU it would copy the
        # input of every layer to float32, and autocast would round it back.
        with disable_input_dtype_casting(self.model, active=self.args.bf16 or self.args.fp16):
            self._run()

    def _run(self) -> None:
        checkpoint = self.request.checkpoint
        step = checkpoint.step if checkpoint else 0
        self.monitor.on_train_begin(step)
        if checkpoint is not None:
            # A checkpoint precedes the evaluation of its step, which may therefore be missing.
            self._load_from_checkpoint(str(checkpoint.path))
            self.state.global_step = step
            self._restore_token_count(checkpoint.path)
            if not self._evaluate_if_due(step) or self._update_complete(step):
                return
        self.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return the optimizer of the recipe, with the learning rates of LoRA+ if it sets them."""
        optimizer = super().create_optimizer(model)
        ratio = self.request.recipe.advanced.loraplus_lr_ratio
        if ratio is not None:
            loraplus.set_rates(optimizer, self.model.named_parameters(), ratio=ratio)
        return optimizer

    def _restore_token_count(self, checkpoint: Path) -> None:
        """Restore the token count, which TRL resets; the log entry of a saved step contains it.

        Otherwise the history of a resumed run would differ from that of an uninterrupted run.
        """
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self._total_train_tokens = int(state.log_history[-1].get("num_tokens", 0))

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Do one forward and backward pass, and count its tokens.

        Unsloth replaces the method in which TRL counts them. The sum stays on the device until it
        is logged, because reading it waits for the GPU.
        """
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        tokens = ids.numel() if mask is None else mask.sum()
        self._tokens = self._tokens.to(ids.device) + tokens
        return super().training_step(model, inputs, num_items_in_batch)

    def take_token_count(self) -> int:
        """Return the number of tokens, without padding, since the last call."""
        count = int(self._tokens)
        self._tokens = torch.zeros_like(self._tokens)
        return count

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        # The stock method logs, and the monitor raises on a loss that is not finite before
        # anything is saved. The checkpoint precedes the evaluation, which may take long.
        super()._maybe_log_save_evaluate(*args, **kwargs)
        actions, self.actions = self.actions, None
        if actions is not None:
            self._perform(actions)
        self.monitor.on_step_actions_done()

    def _perform(self, actions: StepActions) -> None:
        if actions.save:
            self.publish_checkpoint()
        step = self.state.global_step
        if actions.stop:
            return
        if not self._evaluate_if_due(step):
            if not actions.save:
                self.publish_checkpoint()
            self.control.should_training_stop = True
        elif self._update_complete(step):
            self.control.should_training_stop = True

    def _evaluate_if_due(self, step: int) -> bool:
        """Evaluate if it is due; return False if a stop interrupted the evaluation."""
        return not self.monitor.evaluation_due(step) or self.evaluate_tokens()

    def _update_complete(self, step: int) -> bool:
        exhausted = self.monitor.evaluations.patience_exhausted
        self.complete = step >= self.request.max_steps or exhausted
        return self.complete

    def publish_checkpoint(self) -> None:
        """Save and publish everything that a resume needs."""
        self.require_finite()
        step = self.state.global_step
        fresh(self.request.scratch)
        # Bypass TRL's override, which writes a model card into each checkpoint.
        with _save_through_python_files():
            super(SFTTrainer, self)._save_checkpoint(self.model, trial=None)
        saved = self.request.scratch / f"checkpoint-{step}"
        for unwanted in ("training_args.bin", "README.md"):
            (saved / unwanted).unlink(missing_ok=True)
        self.request.publish_checkpoint(saved, step)
        self.monitor.on_save(step)

    def require_finite(self) -> None:
        """Raise LossDiverged if an adapter weight is not finite."""
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not torch.isfinite(parameter).all():
                raise self.monitor.non_finite_weight_error(self.state.global_step, name)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # PEFT chooses the types when it loads. Other types than before the crash round differently,
        # and a resumed run would differ from an uninterrupted one.
        model = model or self.model
        _require_same_tensors(model, Path(resume_from_checkpoint))
        types = {n: p.dtype for n, p in model.named_parameters() if p.requires_grad}
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        for name, parameter in model.named_parameters():
            if name in types:
                parameter.requires_grad_(True)
                parameter.data = parameter.data.to(types[name])

    def evaluate_tokens(self) -> bool:
        """Report the mean loss per held-out token; return False if a stop interrupted it.

        The stock evaluation averages over batches, so that short rows count as much as long ones.
        """
        held_out = self.request.held_out
        if held_out is None:
            return True
        # Otherwise Liger's forward method computes all logits in an evaluation.
        arguments = {"skip_logits": True} if self.args.use_liger_kernel else {}
        self.model.eval()
        total, count = 0.0, 0
        # A data loader draws a seed. Without the fork, a run that resumes before this evaluation
        # and one that resumes after it would continue with different random numbers.
        with torch.no_grad(), torch.random.fork_rng():
            for batch in self.get_eval_dataloader(
                library_arguments.as_dataset(held_out, packed=False)
            ):
                if self.monitor.stop_requested:
                    self.model.train()
                    return False
                with self.accelerator.autocast():
                    loss = self.model(**batch, **arguments).loss
                tokens = int((batch["labels"][:, 1:] != IGNORED).sum())
                total, count = total + float(loss) * tokens, count + tokens
        self.model.train()
        if count:
            self.monitor.on_evaluate(self.state.global_step, total / count)
        return True


def _require_same_tensors(model: Any, checkpoint: Path) -> None:
    """Raise ResumeRefused if PEFT would not load all tensors of a checkpoint's adapter."""
    found = adapter_names.difference(model, checkpoint)
    if found is not None:
        raise ResumeRefused(
            f"checkpoint {checkpoint.name} does not fit the model that this trainer image builds: "
            f"{found}. Resume with the trainer image that started the training, or set spec.rerun "
            "to a new value to retrain"
        )


@contextmanager
def _save_through_python_files() -> Iterator[None]:
    """Make torch write through Python files, whose errors name a full disk.

    torch's own writer reports "unexpected pos 64 vs 0" instead.
    """
    usual = torch.save

    def save(what: Any, path: str) -> None:
        with open(path, "wb") as file:
            usual(what, file)

    torch.save = save
    try:
        yield
    finally:
        torch.save = usual


class MonitorCallback(TrainerCallback):  # type: ignore[misc]
    """Forwards the trainer's events to the monitor."""

    def __init__(self, trainer: Trainer, monitor: Monitor) -> None:
        """Monitor one trainer."""
        self._trainer = trainer
        self._monitor = monitor

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Report that the rows of a step have arrived."""
        self._monitor.on_step_begin()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Request the step's actions; they run once its loss is known to be finite."""
        actions = self._monitor.on_step_end(state.global_step)
        self._trainer.actions = actions
        if actions.save or actions.evaluate:
            control.should_log = True
        if actions.stop:
            control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Report a loss; the final log entry of Trainer has none."""
        if not logs or "loss" not in logs:
            return
        norm = logs.get("grad_norm")
        self._monitor.on_log(
            state.global_step,
            loss=float(logs["loss"]),
            grad_norm=None if norm is None else float(norm),
            rate=logs.get("learning_rate"),
            epoch=state.epoch or 0.0,
            tokens=self._trainer.take_token_count(),
        )
