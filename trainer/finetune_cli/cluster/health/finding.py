"""What a check of a cluster has found."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "failed", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The state of a requirement, what was found, and what to do about it."""

    about: str
    state: State
    found: str
    remedy: str = ""
