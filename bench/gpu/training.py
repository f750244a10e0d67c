"""Trainings of the default recipe, whose volumes later measurements use again."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.training import workload
from bench.training.workload import Prepared

CARD = "NVIDIA-A10G"
CARD_BYTES = int(22.49 * 2**30)
LENGTH, DRY_LENGTH = 4096, 256
ROWS, DRY_ROWS = 4000, 400
"""Rows of the dataset, and of one for a run without a GPU, which trains on a part of them."""


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """The folder with model, rows and volumes; ``cap``: usable GPU memory, None without a GPU."""

    folder: Path
    shape: str
    cap: int | None

    def model(self) -> Path:
        """Return the model, and create it first if it is missing."""
        path = self.folder / "model"
        if not path.is_dir():
            partial = self.folder / "model.partial"
            shutil.rmtree(partial, ignore_errors=True)
            print(f"    create a random model of the shape {self.shape}", flush=True)
            workload.write_model(partial, self.shape)
            partial.rename(path)
        return path

    def prepare(self, name: str, *, training: dict[str, Any]) -> Prepared:
        """Prepare a job for an A10G, unless an interrupted run has prepared it."""
        self.model()
        self._keep_only(name)
        workload.write_rows(self.folder / "rows", ROWS if self.cap else DRY_ROWS)
        return workload.prepare(self.folder, name, training=training, card=CARD)

    def default_recipe(
        self, name: str, *, backend: str, steps: int, deterministic: bool = False, **advanced: Any
    ) -> Prepared:
        """Prepare the default recipe, packed, with the micro-batch chosen for an A10G."""
        training: dict[str, Any] = {
            "maxSteps": steps,
            "packing": "always",
            "sequenceLength": LENGTH if self.cap else DRY_LENGTH,
            "deterministic": deterministic,
            "advanced": {"backend": backend, "overlong": "truncate", "saveSteps": steps} | advanced,
        }
        return self.prepare(name, training=training)

    def _keep_only(self, name: str) -> None:
        """Delete other volumes: each contains a copy of the model."""
        for config in self.folder.glob("*.json"):
            volume = config.with_suffix("")
            if config.stem != name and volume.is_dir():
                shutil.rmtree(volume)
                config.unlink()
