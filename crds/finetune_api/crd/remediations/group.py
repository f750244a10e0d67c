"""A section of docs/reference/reasons.md."""

from collections.abc import Mapping
from dataclasses import dataclass

from finetune_api.v1alpha1.reasons import Reason


@dataclass(frozen=True, kw_only=True)
class ReasonGroup:
    """Reasons with a title, a text about all of them, and a text about each."""

    title: str
    about: str
    texts: Mapping[Reason, str]
