"""The result of a trainer process, written to the termination message of its container.

JSON of at most 4,096 bytes, the limit of the kubelet. The operator accepts it only together with
the Job's own condition: a message alone proves nothing.
"""

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator

from finetune_api.base import CONTENT_DIGEST, MAX_NUMBER, SHA256, StatusModel
from finetune_api.safety.printable import printable
from finetune_api.v1alpha1.data.statistics import Data
from finetune_api.v1alpha1.endpoints.status import PreparedBase
from finetune_api.v1alpha1.resources import Backend, Estimate
from finetune_api.v1alpha1.status.artifacts import MergedModel, PreparedFolders, TrainArtifacts

LIMIT = 4096
MANIFESTS = {
    "prepare": ("baseManifest", "datasetManifest"),
    "train": ("adapterManifest",),
    "merge": ("mergedManifest",),
    "base": ("manifest", "dtype", "modules"),
}
"""Artifacts without which a stage has not completed, by stage: the SHA-256 (hex) of the manifests
that it published. The later stages accept no other manifests."""
HISTORY = "lossHistory"
"""Artifact that a message which is too long loses before everything else."""
OPTIONAL = ("datasets", "sources", "formats", "versions", "adaptedModules")
"""Artifacts with any number of parts. If the message is too long, they are dropped in this order,
the names of files in ``sources`` before everything else."""
MAX_TARGETS = 10
"""Targets of a job, its FineTuneEndpoint and its tracking server: all outcomes have to fit into one
message."""
_REASON_LENGTH = 64
_CUT = 40
"""Characters by which the longest error of a target is cut if the message is too long."""
_Digest = Annotated[str, Field(pattern=SHA256)]
_Line = Annotated[str, AfterValidator(printable)]
"""Text that the operator copies to the status: a compromised pod may have written it."""


def _lines(value: Any) -> Any:
    """Return a JSON value whose texts are single lines without control characters."""
    if isinstance(value, dict):
        return {key: _lines(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_lines(entry) for entry in value]
    return printable(value) if isinstance(value, str) else value


class PrepareArtifacts(Estimate, Data, PreparedFolders):
    """Outputs of the prepare stage: the folders, facts about the rows, the estimate."""

    backend: Backend | None = None


class MergeArtifacts(MergedModel):
    """Outputs of the merge stage."""

    merged_manifest: str | None = Field(None, pattern=SHA256)


class TargetError(StatusModel):
    """Why a target holds no complete content, or not under all names."""

    reason: str = Field(max_length=_REASON_LENGTH, pattern=r"^[A-Za-z]+$")
    message: str = ""


class PublishedTarget(StatusModel):
    """The outcome of one target of the publish stage."""

    name: str = Field(max_length=63)
    """Name of the entry of ``spec.publish``."""
    reference: str | None = None
    """Address of the content: ``REPOSITORY@sha256:HEX``, ``s3://…/sha256-HEX/`` or
    ``hf://OWNER/NAME@COMMIT``. It is left out of a long message; the spec and the digest determine
    it."""
    digest: str | None = Field(None, pattern=CONTENT_DIGEST)
    """Of the manifest of the OCI image; in S3, of manifest.json; on a hub, of the commit."""
    manifest: str | None = Field(None, pattern=SHA256)
    """SHA-256 (hex) of the published manifest.json; in S3, ``digest`` is the same."""
    attestation: str | None = Field(None, pattern=SHA256)
    """SHA-256 (hex) of the statement in the attestation that the target holds (its payload)."""
    bytes: int | None = None
    """Size of the content."""
    sent_bytes: int | None = None
    """Bytes that this process has sent; fewer if an earlier one was interrupted."""
    error: TargetError | None = None
    """None if the target holds the content, which was read back, under all its names, and for a
    hub whose files were only listed: that has no ``digest``."""


class PublishArtifacts(StatusModel):
    """Outcomes of the targets. They are reported by a failed stage as well."""

    targets: list[PublishedTarget] = Field(default_factory=list, max_length=MAX_TARGETS)
    files: dict[_Digest, str] | None = None
    """Files of the folders that the targets hold, or that a hub is about to get, as texts of
    ``file_list``, by the digest of the published manifest.json (``PublishedTarget.manifest``). The
    operator signs their digests. They are left out of a message that would be too long otherwise.
    """


StageArtifacts = (
    PrepareArtifacts | TrainArtifacts | MergeArtifacts | PublishArtifacts | PreparedBase
)
ARTIFACTS: dict[str, type[StageArtifacts]] = {
    "prepare": PrepareArtifacts,
    "train": TrainArtifacts,
    "merge": MergeArtifacts,
    "publish": PublishArtifacts,
    "base": PreparedBase,
}


def _readable(model: type[StageArtifacts], values: dict[str, Any]) -> StageArtifacts:
    """Return the artifacts in a message that the model has a field for.

    Trainer and operator may be of different versions: a value of an unknown form is left out;
    otherwise every later reconcile of the job would fail.
    """
    while True:
        try:
            return model.model_validate(values, extra="ignore", by_alias=True, by_name=False)
        except ValidationError as error:
            unknown = {problem["loc"][0] for problem in error.errors()}
            values = {name: value for name, value in values.items() if name not in unknown}


class Result(StatusModel):
    """The outcome of a stage. Unknown values are null."""

    stage: Literal["prepare", "train", "merge", "publish", "verify", "base"]
    outcome: Literal["completed", "stopped", "failed"]
    reason: str
    message: _Line = ""
    global_step: int | None = None
    max_steps: int | None = None
    loss: float | None = None
    eval_loss: float | None = None
    gpu_seconds: float | None = None
    artifacts: StageArtifacts | None = None
    """Outputs of the stage, under the names that they have in the status. A stage has no fields for
    those of another one: a compromised pod must not replace, for example, the digest of the
    reference with which its model is compared."""
    warnings: list[_Line] = Field(default_factory=list)

    @field_validator("artifacts", mode="before")
    @classmethod
    def _of_stage(cls, value: Any, info: ValidationInfo) -> Any:
        model = ARTIFACTS.get(info.data.get("stage", ""))
        if isinstance(value, dict):
            return None if model is None else _readable(model, _lines(value))
        return value

    @property
    def vouches(self) -> bool:
        """Whether a completed stage reports the digests of everything that it published."""
        published = {} if self.artifacts is None else self.artifacts.model_dump()
        return all(published.get(name) for name in MANIFESTS.get(self.stage, ()))

    def to_message(self, mask: Callable[[Any], Any] = lambda value: value) -> str:
        """Return the JSON, with texts shortened until it fits the kubelet's limit.

        Numbers that no result may have (the loss of a diverged run) are omitted. mask: removes
        credentials from a value. Stage, outcome and reason are words of this project, even if a
        credential has the same value.
        """
        values = {
            key: value
            for key, value in self.model_dump(exclude_none=True).items()
            if not isinstance(value, float) or abs(value) <= MAX_NUMBER
        }
        values["reason"] = values["reason"][:_REASON_LENGTH]
        values |= {
            part: mask(values.get(part, {})) for part in ("message", "warnings", "artifacts")
        }
        while len(text := _json(values)) > LIMIT:
            if values["artifacts"].pop(HISTORY, None) is not None:
                continue
            if record := _with_most_files(values["artifacts"]):
                record["files"].pop()
            elif values["warnings"]:
                values["warnings"].pop()
            elif len(values["message"]) > 200:
                values["message"] = values["message"][: len(values["message"]) * 3 // 4] + "…"
            elif target := _with_reference(values["artifacts"]):
                del target["reference"]
            elif target := _with_longest_error(values["artifacts"]):
                target["error"]["message"] = target["error"]["message"][:-_CUT] + "…"
            elif lists := values["artifacts"].get("files"):
                del lists[max(lists, key=lambda digest: len(lists[digest]))]
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
    if isinstance(value, list | tuple):
        return all(map(_is_bounded, value))
    # A comparison with NaN is false.
    return not isinstance(value, int | float) or -MAX_NUMBER <= value <= MAX_NUMBER


def _with_most_files(artifacts: dict[str, Any]) -> dict[str, Any] | None:
    """Return the record in ``sources`` that names the most files; None if none names any."""
    records = [source for source in artifacts.get("sources", ()) if source["files"]]
    return max(records, key=lambda source: len(source["files"]), default=None)


def _with_longest_error(artifacts: dict[str, Any]) -> dict[str, Any] | None:
    """Return the target with the longest error that can be cut; None if there is none."""
    failed = [target for target in artifacts.get("targets", ()) if "error" in target]
    longest = max(failed, key=lambda target: len(target["error"]["message"]), default=None)
    return longest if longest and len(longest["error"]["message"]) > 2 * _CUT else None


def _with_reference(artifacts: dict[str, Any]) -> dict[str, Any] | None:
    """Return the first target that has a reference; None if there is none."""
    return next((target for target in artifacts.get("targets", ()) if "reference" in target), None)


def _json(values: dict[str, Any]) -> bytes:
    # A file name may contain bytes that are not UTF-8; the message must be written anyway.
    return json.dumps(values, ensure_ascii=False).encode(errors="replace")
