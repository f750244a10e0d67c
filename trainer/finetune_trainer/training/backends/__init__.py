"""Interface between the trainer and the library that trains.

A backend receives token ids and labels, never text, and reports through a ``Monitor``. It returns
an adapter in PEFT's format and the facts that a merge needs. Verified checkpoints, budgets, stops
and publishing are common to all backends.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.attention.kernels import Support
from finetune_trainer.checkpointing.checkpoints import Checkpoint
from finetune_trainer.compatibility.backend_choice import UNSLOTH, require_present
from finetune_trainer.data.token_store import Tokens
from finetune_trainer.quantization.quant_state import QuantizationRecord
from finetune_trainer.training.loop.monitor import Monitor
from finetune_trainer.training.oom_fallback import MemorySettings


class OutOfMemory(Exception):
    """CUDA is out of memory; the text contains the peak allocation."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What to train, from which checkpoint, and where to save."""

    base: Path
    source: str
    commit: str
    recipe: Training
    packed: bool
    attention: Support
    """The attention kernels that compute the base."""
    train: Tokens
    held_out: Tokens | None
    max_steps: int
    memory: MemorySettings
    scratch: Path
    start: Path | None
    """The adapter that the training continues from; None for a new one."""
    checkpoint: Checkpoint | None
    publish_checkpoint: Callable[[Path, int], None]
    """Publishes a scratch folder as the checkpoint of a step."""
    checkpoint_of: Callable[[int], Path]
    """Returns the verified checkpoint of the step with the best evaluation."""


@dataclass(frozen=True, kw_only=True)
class TrainOutput:
    """Result of a training; ``complete`` is False if it was stopped before its end.

    notes: differences from the recipe that the backend made on this device, as sentences.
    """

    step: int
    complete: bool
    quantization: QuantizationRecord
    """The 4-bit weights as they were when the model was loaded."""
    attention: str
    device: str
    notes: tuple[str, ...] = ()


class Backend(Protocol):
    """A library that trains QLoRA."""

    def versions(self) -> dict[str, str]:
        """Return the versions of the libraries that a checkpoint depends on."""
        ...

    def can_offload(self, recipe: Training) -> bool:
        """Report whether activations that stay on the card by default can be moved to RAM."""
        ...

    def train(self, request: TrainRequest, monitor: Monitor, adapter: Path) -> TrainOutput:
        """Train, and save the adapter into ``adapter`` if all steps are done.

        Raise OutOfMemory if CUDA runs out of memory.
        """
        ...


DETERMINISTIC = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "FLASH_ATTENTION_DETERMINISTIC": "1",
    # Otherwise Unsloth sizes the chunks of its loss by the free memory.
    "UNSLOTH_CE_LOSS_TARGET_GB": "1",
}
"""Environment variables with which the libraries choose deterministic algorithms."""


def load(recipe: Training) -> Backend:
    """Return the backend that ``prepare`` selected, and import its libraries."""
    require_present(recipe.advanced.backend)
    if recipe.deterministic:
        # Unsloth reads its variable when it is imported.
        os.environ.update(DETERMINISTIC)
    if recipe.advanced.backend == UNSLOTH:
        from finetune_trainer.training.backends.unsloth import UnslothBackend

        return UnslothBackend()
    from finetune_trainer.training.backends.trl import TrlBackend

    return TrlBackend()
