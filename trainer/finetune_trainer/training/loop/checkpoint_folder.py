"""Save what a resume needs into a folder, and load the adapter of such a folder.

The states of the optimizer, the schedule and the random numbers are loaded by ``Trainer.train()``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from finetune_trainer.errors import InvalidSpec, ResumeRefused
from finetune_trainer.models import adapter_names
from finetune_trainer.volume.files import fresh


def save(trainer: transformers.Trainer) -> Path:
    """Save adapter, optimizer, schedule, random numbers and log; return the folder.

    It is in the trainer's output folder, which is emptied first.
    """
    scratch = fresh(Path(trainer.args.output_dir))
    with _save_through_python_files():
        # TRL's trainers override the method, and write a model card into each checkpoint.
        transformers.Trainer._save_checkpoint(trainer, trainer.model, trial=None)
    saved = scratch / f"{PREFIX_CHECKPOINT_DIR}-{trainer.state.global_step}"
    for unwanted in ("training_args.bin", "README.md"):
        (saved / unwanted).unlink(missing_ok=True)
    return saved


def load_adapter(model: Any, folder: Path) -> None:
    """Load the adapter. Raise ResumeRefused if PEFT would not load all of its tensors."""
    difference = adapter_names.difference(model, folder)
    if difference is not None:
        raise ResumeRefused(
            f"checkpoint {folder.name} does not fit the model that this trainer image builds: "
            f"{difference}. Resume with the trainer image that started the training, or set "
            "spec.rerun to a new value to retrain"
        )
    _load(model, folder)


def load_start(model: Any, folder: Path) -> None:
    """Load the adapter that a training continues from. Raise InvalidSpec if it does not fit."""
    difference = adapter_names.difference(model, folder)
    if difference is not None:
        raise InvalidSpec(
            f"the adapter in training.startFrom does not fit the model: {difference}. Choose "
            "another adapter, or set training.lora.targetModules to its modules"
        )
    _load(model, folder)


def _load(model: Any, folder: Path) -> None:
    """Load the tensors of an adapter without changing the types of the parameters.

    PEFT chooses the types when it loads. Other types than before a crash round differently, and a
    resumed run would differ from an uninterrupted one.
    """
    types = {n: p.dtype for n, p in model.named_parameters() if p.requires_grad}
    model.load_adapter(str(folder), model.active_adapters[0], is_trainable=True)
    for name, parameter in model.named_parameters():
        if name in types:
            parameter.requires_grad_(True)
            parameter.data = parameter.data.to(types[name])


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
