"""The result that a trainer process leaves in its termination message.

JSON of at most 4,096 bytes, which is what the kubelet keeps. It is believed only together with the
Job's own condition: a message alone proves nothing.
"""

import json
from typing import Any, Literal

from pydantic import Field, ValidationError

from finetune_api.status import StatusModel

LIMIT = 4096


class Result(StatusModel):
    """How a stage ended. Only what is known is set."""

    stage: Literal["stage", "train", "merge"]
    outcome: Literal["completed", "stopped", "failed"]
    reason: str
    message: str = ""
    global_step: int | None = None
    max_steps: int | None = None
    loss: float | None = None
    eval_loss: float | None = None
    gpu_seconds: float | None = None
    artifacts: dict[str, Any] = Field(default_factory=dict)
    """``baseCommit``, ``datasetDigest``, ``rows``, ``validationRows``, ``droppedRows``,
    ``trainTokens``, ``plannedSteps`` of staging; ``adapter`` of training; ``merged`` and
    ``mergedDtype`` of merging. Digests are ``sha256:`` and 64 hex digits."""
    warnings: list[str] = Field(default_factory=list)

    def to_message(self) -> str:
        """Return the JSON, its sentences shortened until it fits the kubelet's limit."""
        values = self.model_dump(by_alias=True, exclude_none=True, exclude_defaults=False)
        text = json.dumps(values, ensure_ascii=False)
        while len(text.encode()) > LIMIT:
            if values["warnings"]:
                values["warnings"].pop()
            elif len(values["message"]) > 200:
                values["message"] = values["message"][: len(values["message"]) * 3 // 4] + "…"
            else:
                values["artifacts"] = {}
            text = json.dumps(values, ensure_ascii=False)
        return text

    @classmethod
    def from_message(cls, text: str) -> "Result | None":
        """Return the result in a termination message, or None where there is none to read."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None
