"""Signatures that the chart's policy requires of sources, and that the prepare stage verifies.

The keys belong to the administrator: they come from the chart, never from a job, and are not
frozen. Each requirement that covers a source must be met.
"""

from typing import Literal

from pydantic import Field

from finetune_api.base import CamelModel

What = Literal["model", "adapter", "dataset"]

MOST_REQUIREMENTS = 16
MOST_KEYS = 8
"""All keys are in one argument of a container, and Linux limits an argument to 128 KiB."""


class RequiredSignature(CamelModel):
    """Sources that need a signature, and the public keys of which one must have made it."""

    sources: tuple[str, ...] = Field(min_length=1, max_length=16)
    """Patterns of the complete field ``source`` (``policy.signatures``)."""
    what: tuple[What, ...] = Field(("model", "adapter", "dataset"), min_length=1)
    keys: tuple[str, ...] = Field(min_length=1, max_length=MOST_KEYS)
    """In PEM format: elliptic curve keys with the curve P-256."""
