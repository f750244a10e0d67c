"""The entry of spec.approvals that a job which waits for an approval shows to its reader."""

from typing import Any

import yaml


def entry_of(message: str) -> dict[str, Any]:
    """Return the entry in the message of a job."""
    entry: dict[str, Any] = yaml.safe_load(message.partition("spec.approvals: ")[2].rstrip("."))
    return entry
