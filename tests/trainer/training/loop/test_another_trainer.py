"""Checkpoint, resume and monitor with a trainer that is not TRL's."""

import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from tests.support.trainer import tiny

from finetune_trainer.checkpointing.checkpoints import Checkpoint
from finetune_trainer.reporting.loss_history import LossHistory
from finetune_trainer.runtime.progress import Progress
from finetune_trainer.runtime.signals import StopRequest
from finetune_trainer.training.gpu_usage import GpuUsage
from finetune_trainer.training.loop import checkpoint_folder, resume
from finetune_trainer.training.loop.early_stopping import EvaluationHistory
from finetune_trainer.training.loop.monitor import Cadence, Monitor
from finetune_trainer.training.loop.monitor_callback import MonitorCallback

STEPS = 6


class Killed(Exception):
    """Stands for the end of the process."""


class Plain(transformers.Trainer):  # type: ignore[misc]
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Keep the adapter, as every trainer that ``resume`` runs."""


class Attempt:
    """One attempt at a training on the CPU, with dropout and a checkpoint every second step."""

    def __init__(self, folder: Path, earlier: "Attempt | None" = None) -> None:
        torch.manual_seed(1)
        base = transformers.LlamaForCausalLM(transformers.LlamaConfig(**tiny.SHAPE))
        lora = peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_dropout=0.1)
        rows = [{"input_ids": list(range(at, at + 8)), "labels": [at] * 8} for at in range(3, 43)]
        self.trainer = Plain(
            model=peft.get_peft_model(base, lora),
            args=transformers.TrainingArguments(
                output_dir=str(folder / "scratch"),
                max_steps=STEPS,
                per_device_train_batch_size=2,
                learning_rate=1e-2,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                disable_tqdm=True,
            ),
            train_dataset=rows,
        )
        self.trainer.remove_callback(transformers.PrinterCallback)
        self.history = LossHistory.load(earlier.saved) if earlier else LossHistory()
        self.saved: Path = folder / "saved"
        self.evaluated: list[int] = []
        self.killed_at: int | None = None
        self.interrupted_at: int | None = None
        self.monitor = Monitor(
            cadence=Cadence(max_steps=STEPS, eval_steps=1, save_steps=2),
            progress=Progress("train"),
            usage=GpuUsage(folder / "usage.json"),
            evaluations=EvaluationHistory(patience=None),
            stop=StopRequest(),
            budget=None,
            learning_rate=1e-2,
            scales_loss=False,
            history=self.history,
            memory_peak=lambda: None,
        )
        self.callback = MonitorCallback(
            self.monitor, save=self.save, evaluate=self.evaluate, take_token_count=lambda: 1
        )
        self.trainer.add_callback(self.callback)

    def save(self, step: int) -> None:
        shutil.rmtree(self.saved, ignore_errors=True)
        shutil.copytree(checkpoint_folder.save(self.trainer), self.saved)
        self.history.save(self.saved)
        if step == self.killed_at:
            raise Killed

    def evaluate(self, step: int) -> bool:
        if step == self.interrupted_at:
            return False
        self.monitor.on_evaluate(step, 1.0)
        self.evaluated.append(step)
        return True

    def adapter(self) -> bytes:
        return (self.saved / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Attempt:
    attempt = Attempt(tmp_path_factory.mktemp("whole"))
    resume.run(attempt.trainer, attempt.callback, None)
    assert attempt.callback.complete
    assert attempt.evaluated == [1, 2, 3, 4, 5, 6]
    return attempt


def require_same_result(folder: Path, earlier: Attempt, step: int, whole: Attempt) -> None:
    """Resume from the checkpoint of a step, which precedes the evaluation of that step."""
    assert not earlier.callback.complete
    assert earlier.evaluated == list(range(1, step))
    assert earlier.adapter() != whole.adapter()
    resumed = Attempt(folder, earlier)
    checkpoint = Checkpoint(step=step, path=earlier.saved, facts={})
    resume.run(resumed.trainer, resumed.callback, checkpoint)
    assert resumed.callback.complete
    assert resumed.evaluated == list(range(step, STEPS + 1))
    assert resumed.adapter() == whole.adapter()
    assert resumed.history["loss"] == whole.history["loss"]


def test_resume_after_a_kill_ends_with_the_same_bytes(tmp_path: Path, whole: Attempt) -> None:
    killed = Attempt(tmp_path / "killed")
    killed.killed_at = 4
    with pytest.raises(Killed):
        resume.run(killed.trainer, killed.callback, None)
    require_same_result(tmp_path / "resumed", killed, 4, whole)


def test_interrupted_evaluation_saves_a_checkpoint_and_is_repeated(
    tmp_path: Path, whole: Attempt
) -> None:
    stopped = Attempt(tmp_path / "stopped")
    stopped.interrupted_at = 3
    resume.run(stopped.trainer, stopped.callback, None)
    require_same_result(tmp_path / "resumed", stopped, 3, whole)
