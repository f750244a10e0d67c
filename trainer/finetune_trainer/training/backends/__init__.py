"""The seam between the trainer and the library that trains.

A backend gets tokens and labels, never text, and a ``Monitor`` that every report goes through; what
it hands back is an adapter in PEFT's format and what the merge has to know. Everything else
(checkpoints that can be trusted, budgets, stops, publishing) is common to all backends.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from finetune_api.v1alpha1.training import Training
from finetune_trainer.checkpointing.checkpoints import Checkpoint
from finetune_trainer.data.token_store import Tokens
from finetune_trainer.models.backend_support import refuse_absent
from finetune_trainer.quantization.record import Recorded
from finetune_trainer.runtime import device as devices
from finetune_trainer.training.monitor import Monitor
from finetune_trainer.training.oom_fallback import Rung


class TooLarge(Exception):
    """CUDA is out of memory; the text has the peak that was reached."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to train, from where on, and where checkpoints go."""

    base: Path
    source: str
    commit: str
    recipe: Training
    packed: bool
    train: Tokens
    held_out: Tokens | None
    max_steps: int
    rung: Rung
    scratch: Path
    checkpoint: Checkpoint | None
    publish_checkpoint: Callable[[Path, int], None]
    """Takes a scratch folder and its step, and publishes it as a checkpoint."""
    checkpoint_of: Callable[[int], Path]
    """Returns the verified checkpoint of a step whose evaluation is the one to keep."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came of it. ``complete`` is False where it was stopped before its end.

    notes: what the backend does differently from the recipe on this device, in sentences.
    """

    step: int
    complete: bool
    quantized: Recorded
    """The 4-bit weights, as they were when the model was loaded."""
    attention: str
    device: str
    notes: tuple[str, ...] = ()


class Backend(Protocol):
    """A library that trains QLoRA."""

    def versions(self) -> dict[str, str]:
        """Return the libraries that a checkpoint depends on."""
        ...

    def scales_loss(self, recipe: Training) -> bool:
        """Tell whether the loss is scaled, so that single steps may be skipped."""
        ...

    def can_offload(self, recipe: Training) -> bool:
        """Tell whether activations can be moved to RAM that stay on the card otherwise."""
        ...

    def train(self, order: Order, monitor: Monitor, adapter: Path) -> Trained:
        """Train, and save the adapter into ``adapter`` if all steps were done.

        Raises TooLarge where CUDA runs out of memory.
        """
        ...


def load(name: str) -> Backend:
    """Return a backend by its name in the API."""
    refuse_absent(name)
    if name == "trl":
        from finetune_trainer.training.backends.trl import TrlBackend

        return TrlBackend()
    if name == "unsloth":
        devices.refuse_cpu_fallback()
        from finetune_trainer.training.backends.unsloth import UnslothBackend

        return UnslothBackend()
    raise ValueError(f"no such backend: {name}")
