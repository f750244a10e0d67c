"""The result that a trainer process leaves in its termination message.

JSON of at most 4,096 bytes, which is what the kubelet keeps. It is believed only together with the
Job's own condition: a message alone proves nothing.
"""

import json
import math
from typing import Any, Literal

from pydantic import Field, ValidationError

from finetune_api.base import StatusModel

LIMIT = 4096
_REASON_LENGTH = 64


class Result(StatusModel):
    """How a stage ended. Only what is known is set."""

    stage: Literal["prepare", "train", "merge", "verify"]
    outcome: Literal["completed", "stopped", "failed"]
    reason: str
    message: str = ""
    global_step: int | None = None
    max_steps: int | None = None
    loss: float | None = None
    eval_loss: float | None = None
    gpu_seconds: float | None = None
    artifacts: dict[str, Any] = Field(default_factory=dict)
    """``baseCommit``, ``baseBytes``, ``chatTemplate`` (where it is not the base's own),
    ``datasetDigest`` and the fields of ``status.Data`` of staging, and its estimate by the names of
    ``status.Estimate``; ``adapter`` and ``evaluation`` of training; ``merged`` and ``mergedDtype``
    of merging. Digests are ``sha256:`` and 64 hex digits."""
    warnings: list[str] = Field(default_factory=list)

    def to_message(self) -> str:
        """Return the JSON, its sentences shortened until it fits the kubelet's limit.

        A number that is none (the loss of a diverged run) is left out: JSON has no word for it.
        """
        values = {
            key: value
            for key, value in self.model_dump(exclude_none=True).items()
            if not isinstance(value, float) or math.isfinite(value)
        }
        values["reason"] = values["reason"][:_REASON_LENGTH]
        while len(text := _json(values)) > LIMIT:
            if values["warnings"]:
                values["warnings"].pop()
            elif len(values["message"]) > 200:
                values["message"] = values["message"][: len(values["message"]) * 3 // 4] + "…"
            else:
                values["artifacts"] = {}
        return text.decode()

    @classmethod
    def from_message(cls, text: str) -> "Result | None":
        """Return the result in a termination message, or None where there is none to read."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None


def _json(values: dict[str, Any]) -> bytes:
    # A file's name may hold bytes that are no UTF-8; it must not cost the whole message.
    return json.dumps(values, ensure_ascii=False).encode(errors="replace")
