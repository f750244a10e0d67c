"""The outcome of a target, while it is published."""

from collections.abc import Mapping
from dataclasses import dataclass

from finetune_api.contracts.result import PublishedTarget, TargetError
from finetune_api.safety.redaction import one_line
from finetune_trainer.publishing.transfer import Transfer

LONGEST_MESSAGE = 1000


@dataclass(kw_only=True)
class Outcome:
    """What is known about a target. ``retryable``: whether another attempt may complete it."""

    name: str
    reference: str | None = None
    digest: str | None = None
    manifest: str | None = None
    files: Mapping[str, str] | None = None
    """SHA-256 (hex) of the files of the content by path, if the operator may sign them."""
    attestation: str | None = None
    size: int | None = None
    reason: str | None = None
    message: str = ""
    retryable: bool = False

    def completed(self, reference: str, digest: str) -> None:
        """Record that the target holds the content."""
        self.reference, self.digest = reference, digest

    def failed(self, reason: str, error: BaseException, *, retryable: bool) -> None:
        """Record why the target is not complete."""
        self.reason, self.retryable = reason, retryable
        self.message = one_line(error, LONGEST_MESSAGE)

    def as_artifact(self, transfer: Transfer) -> PublishedTarget:
        """Return the outcome for the result of the stage."""
        error = None
        if self.reason is not None:
            error = TargetError(reason=self.reason, message=self.message)
        return PublishedTarget(
            name=self.name,
            reference=self.reference,
            digest=self.digest,
            manifest=self.manifest,
            attestation=self.attestation,
            bytes=self.size,
            sent_bytes=transfer.sent,
            error=error,
        )
