"""What the table of the verbs says about each of them."""

from dataclasses import dataclass

FILES, CLUSTER, MODELS = "Manifests and estimates", "Jobs in a cluster", "Models"
"""Panels of the help."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A verb: its module has a function ``run``, whose parameters are arguments and options."""

    name: str
    module: str
    panel: str
    summary: str
    description: str
    example: str
