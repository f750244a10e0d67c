"""The file of results: one measurement after the other, until all are made.

A measurement is JSON. The file states the machine and the settings, so that measurements of
different machines or shapes are never in one table.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1
FAILED = "failed"
"""Key of the reason why a measurement has no figures."""


class OtherRun(Exception):
    """The file contains results of another machine or of other settings."""


@dataclass(kw_only=True)
class Results:
    """Measurements by name, and how often each was interrupted by the limit of time."""

    about: Mapping[str, Any]
    """Machine, versions and settings."""
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    interrupted: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Read a file of results. Raise ValueError if it is none."""
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError(f"{path} has no results of bench/gpu in format {FORMAT}")
        return cls(**{name: document[name] for name in ("about", "measured", "interrupted")})

    @classmethod
    def resume(cls, path: Path, about: Mapping[str, Any]) -> "Results":
        """Read the file if there is one, and return empty results otherwise. Raise OtherRun."""
        if not path.exists():
            return cls(about=about)
        results = cls.load(path)
        differing = sorted(
            name for name in {*results.about, *about} if results.about.get(name) != about.get(name)
        )
        if differing:
            name = differing[0]
            raise OtherRun(
                f"{path} has results with {name} {results.about.get(name)!r} instead of "
                f"{about.get(name)!r}: choose another file with --results"
            )
        return results

    def save(self, path: Path) -> None:
        """Write the file; a process that is killed meanwhile leaves the earlier one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        document = {"format": FORMAT} | vars(self)
        partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
