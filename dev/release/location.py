"""Where a release is published: one registry, from which all other names follow."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

REGISTRY = re.compile(r"[a-z0-9][a-z0-9.-]*(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)*")
VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?")
CHARTS = "charts"
"""Last part of the path of the charts: a chart and an image cannot share a repository."""


class InvalidLocation(ValueError):
    """A registry or a version cannot be used; the message names the value and the remediation."""


@dataclass(frozen=True, kw_only=True)
class Location:
    """The location of one version."""

    registry: str
    version: str

    def __post_init__(self) -> None:
        if REGISTRY.fullmatch(self.registry) is None:
            raise InvalidLocation(
                f"registry {self.registry!r} is invalid: write it as registry.example.com/team, "
                "without a scheme"
            )
        if VERSION.fullmatch(self.version) is None:
            raise InvalidLocation(f"version {self.version!r} is no semantic version such as 0.1.0")

    def image(self, name: str, suffix: str = "") -> str:
        """Return the reference of an image, without a digest."""
        return f"{self.registry}/{name}:{self.version}{suffix}"

    @property
    def charts(self) -> str:
        """The URL to which Helm pushes the chart."""
        return f"oci://{self.registry}/{CHARTS}"


def version_of_the_checkout(root: Path) -> str:
    """Return the version in pyproject.toml."""
    with (root / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])
