"""What a statement is made of, besides the ledger."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_api.v1alpha1.publishing.publication import Publication
from finetune_api.v1alpha1.publishing.targets import PublishTarget
from finetune_api.v1alpha1.status.ledger import Revision
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object

Values = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The publication that a statement is about, and where its facts come from."""

    job: Object
    target: TargetRevision
    """The revision and the build that were published."""

    record: Revision
    """The record of the revision in the ledger."""

    place: PublishTarget
    publication: Publication
    """What the target holds, or what a hub is about to get."""

    gate: Mapping[str, Any] = field(default_factory=dict)
    """The decision of the evaluation gate, in the form of ``status.evaluation``."""

    verification: Mapping[str, Any] = field(default_factory=dict)
    """The verification of the build, in the form of ``status.verification``; empty without one."""


def present(**values: Any) -> Values:
    """Return the values under names in camelCase, without those that are unknown."""
    return {_camel(name): value for name, value in values.items() if value not in (None, "", {})}


def dumped(model: Any, *, exclude: set[str] | None = None) -> Values | None:
    """Return a part of the ledger as it is in the status; None if it has no values."""
    if model is None:
        return None
    values: Values = model.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude=exclude
    )
    return values or None


def sha256(text: str | None) -> str | None:
    """Return the hex digits of a SHA-256 digest, with or without prefix; None for other texts."""
    digits = (text or "").rpartition("sha256:")[2]
    is_digest = len(digits) == 64 and all(digit in "0123456789abcdef" for digit in digits)
    return digits if is_digest else None


def _camel(name: str) -> str:
    first, *words = name.rstrip("_").split("_")
    return first + "".join(word.title() for word in words)
