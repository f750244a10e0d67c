"""Every loss that a run reported, from its first step on, however often it was resumed.

The file goes with each checkpoint, so that a resumed run goes on with the curve as it was at that
step: what was trained after it and lost is not in the curve either.
"""

import json
from pathlib import Path

FILE = "curves.json"
Points = list[tuple[int, float]]


class Curves:
    """Named series of (step, value), steps ascending."""

    def __init__(self, series: dict[str, Points] | None = None) -> None:
        """Go on with what there is already."""
        self.series: dict[str, Points] = series or {}

    def add(self, step: int, **values: float | None) -> None:
        """Record values of a step; None is not known. A step that is reported again replaces."""
        for name, value in values.items():
            if value is None:
                continue
            points = self.series.setdefault(name, [])
            while points and points[-1][0] >= step:
                points.pop()
            points.append((step, float(value)))

    def __getitem__(self, name: str) -> Points:
        """Return a series, an empty one where nothing was recorded."""
        return self.series.get(name, [])

    def save(self, folder: Path) -> None:
        """Write into a folder."""
        (folder / FILE).write_text(json.dumps(self.series, separators=(",", ":")))

    @classmethod
    def load(cls, folder: Path) -> "Curves":
        """Read what ``save`` wrote; an older checkpoint has none, and its curve begins there."""
        path = folder / FILE
        if not path.is_file():
            return cls()
        series = json.loads(path.read_text())
        return cls({name: [(int(s), float(v)) for s, v in each] for name, each in series.items()})
