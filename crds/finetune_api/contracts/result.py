"""The result of a trainer process, written to the termination message of its container.

JSON of at most 4,096 bytes, the limit of the kubelet. The operator accepts it only together with
the Job's own condition: a message alone proves nothing.
"""

import json
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from finetune_api.base import StatusModel
from finetune_api.contracts.printable import printable

LIMIT = 4096
MAX_NUMBER = 2**53
"""Larger numbers are not exact in JSON, and the API server rejects a status that has them."""
MANIFESTS = {
    "prepare": ("baseManifest", "datasetManifest"),
    "train": ("adapterManifest",),
    "merge": ("mergedManifest",),
}
"""Artifacts without which a stage has not completed, by stage: the SHA-256 (hex) of the manifests
that it published. The later stages accept no other manifests."""
OWN_ARTIFACTS = {
    "train": (
        "adapter",
        "adapterManifest",
        "referenceManifest",
        "referenceSeconds",
        "largestActivation",
        "attention",
        "device",
        "evaluation",
    ),
    "merge": ("merged", "mergedManifest", "mergedDtype"),
}
"""Artifacts that only this stage determines, by stage. All others are those of ``prepare``; a later
stage may repeat them."""
OPTIONAL = ("datasets", "sources", "formats")
"""Artifacts of which there is one per dataset. If the message is too long, they are dropped in this
order, the names of files in ``sources`` before everything else."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_REASON_LENGTH = 64
_Line = Annotated[str, AfterValidator(printable)]
"""Text that the operator copies to the status: a compromised pod may have written it."""


def _lines(value: Any) -> Any:
    """Return a JSON value whose texts are single lines without control characters."""
    if isinstance(value, dict):
        return {key: _lines(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_lines(each) for each in value]
    return printable(value) if isinstance(value, str) else value


class Result(StatusModel):
    """The outcome of a stage. Unknown values are null."""

    stage: Literal["prepare", "train", "merge", "verify"]
    outcome: Literal["completed", "stopped", "failed"]
    reason: str
    message: _Line = ""
    global_step: int | None = None
    max_steps: int | None = None
    loss: float | None = None
    eval_loss: float | None = None
    gpu_seconds: float | None = None
    artifacts: Annotated[dict[str, Any], AfterValidator(_lines)] = Field(default_factory=dict)
    """Outputs of the stage.

    prepare: ``baseCommit``, ``baseBytes``, ``chatTemplate`` (if it is not that of the base model),
    ``effectiveTemplate``, ``datasetDigest``, and the fields of ``dataset.Data`` and
    ``ledger.Estimate``; train: ``adapter``, ``evaluation`` and, if a reference was recorded,
    ``referenceManifest``; merge: ``merged`` and ``mergedDtype``. Digests are ``sha256:`` and 64 hex
    digits, those of ``MANIFESTS`` only the digits.
    """
    warnings: list[_Line] = Field(default_factory=list)

    def artifacts_of(self, stage: str) -> dict[str, Any]:
        """Return the artifacts that a stage determines: the one that the pod ran.

        A compromised pod must not replace those of another stage, such as the digest of the
        reference with which its model is compared.
        """
        of_later = {name for names in OWN_ARTIFACTS.values() for name in names}
        own = OWN_ARTIFACTS.get(stage)
        return {
            name: value
            for name, value in self.artifacts.items()
            if (name in own if own is not None else name not in of_later)
        }

    @property
    def vouches(self) -> bool:
        """Whether a completed stage reports the digests of everything that it published."""
        digests = [self.artifacts.get(name) for name in MANIFESTS.get(self.stage, ())]
        return all(isinstance(each, str) and _DIGEST.fullmatch(each) for each in digests)

    def to_message(self) -> str:
        """Return the JSON, with texts shortened until it fits the kubelet's limit.

        Numbers that no result may have (the loss of a diverged run) are omitted.
        """
        values = {
            key: value
            for key, value in self.model_dump(exclude_none=True).items()
            if not isinstance(value, float) or abs(value) <= MAX_NUMBER
        }
        values["reason"] = values["reason"][:_REASON_LENGTH]
        while len(text := _json(values)) > LIMIT:
            if record := _with_most_files(values["artifacts"]):
                record["files"].pop()
            elif values["warnings"]:
                values["warnings"].pop()
            elif len(values["message"]) > 200:
                values["message"] = values["message"][: len(values["message"]) * 3 // 4] + "…"
            elif optional := [name for name in OPTIONAL if name in values["artifacts"]]:
                values["artifacts"].pop(optional[0])
            else:
                values["artifacts"] = {}
        return text.decode()

    @classmethod
    def from_message(cls, text: str) -> "Result | None":
        """Return the result in a termination message, or None if the text is not a result.

        A text that is longer than ``LIMIT``, or has a number beyond ``MAX_NUMBER``, is none.
        """
        if len(text) > LIMIT:
            return None
        try:
            result = cls.model_validate_json(text)
        except ValidationError:
            return None
        return result if _is_bounded(result.model_dump()) else None


def _is_bounded(value: Any) -> bool:
    """Report whether all numbers of a value are finite and between -``MAX_NUMBER`` and it."""
    if isinstance(value, dict):
        return all(map(_is_bounded, value.values()))
    if isinstance(value, list):
        return all(map(_is_bounded, value))
    # A comparison with NaN is false.
    return not isinstance(value, int | float) or -MAX_NUMBER <= value <= MAX_NUMBER


def _with_most_files(artifacts: dict[str, Any]) -> dict[str, Any] | None:
    """Return the record in ``sources`` that names the most files; None if none names any."""
    records = [each for each in artifacts.get("sources", ()) if each["files"]]
    return max(records, key=lambda each: len(each["files"]), default=None)


def _json(values: dict[str, Any]) -> bytes:
    # A file name may contain bytes that are not UTF-8; the message must be written anyway.
    return json.dumps(values, ensure_ascii=False).encode(errors="replace")
