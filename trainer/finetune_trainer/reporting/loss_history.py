"""Every loss, learning rate, gradient norm and speed that a training logged, over all attempts.

The file is part of each checkpoint, so a resumed run continues with the history as of that step;
entries of later steps, which are trained again, are not in it.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from finetune_api.safety import untrusted_file, untrusted_json

FILE = "loss_history.json"
Points = list[tuple[int, float]]


class LossHistory:
    """Named series of (step, value), ordered by step."""

    def __init__(self, series: dict[str, Points] | None = None) -> None:
        """Continue existing series."""
        self.series: dict[str, Points] = series or {}
        self.on_add: Callable[[int, Mapping[str, float]], None] | None = None
        """Called with the step and the values of each record."""

    def add(self, step: int, **values: float | None) -> None:
        """Record values of a step (None: skip); they replace those of the same and later steps."""
        numbers = {name: float(value) for name, value in values.items() if value is not None}
        for name, value in numbers.items():
            points = self.series.setdefault(name, [])
            while points and points[-1][0] >= step:
                points.pop()
            points.append((step, value))
        if self.on_add is not None:
            self.on_add(step, numbers)

    def __getitem__(self, name: str) -> Points:
        """Return a series; it is empty if nothing was recorded."""
        return self.series.get(name, [])

    def save(self, folder: Path) -> None:
        """Write the history into a folder."""
        (folder / FILE).write_text(json.dumps(self.series, separators=(",", ":")))

    @classmethod
    def load(cls, folder: Path) -> "LossHistory":
        """Return the saved history of a folder, or an empty one if there is none."""
        path = folder / FILE
        if not path.is_file():
            return cls()
        return cls.parse(untrusted_file.read_bytes(path))

    @classmethod
    def parse(cls, data: bytes) -> "LossHistory":
        """Return the history in the content of its file."""
        series = untrusted_json.parse(data)
        return cls(
            {name: [(int(s), float(v)) for s, v in points] for name, points in series.items()}
        )
