"""The ledger of publishing: what targets of ``spec.publish`` hold of a revision."""

from pydantic import Field

from finetune_api.base import CONTENT_DIGEST, SHA256, LedgerModel


class PublicationError(LedgerModel):
    """Why a target does not hold the content of a revision."""

    reason: str = Field(description="Reason as one CamelCase word.", max_length=64)
    message: str = Field(description="Explanation, and how to fix the problem.")


class Publication(LedgerModel):
    """The content of a revision at a target, or why the target does not hold it."""

    name: str = Field(description="Name of the target in spec.publish.")
    destination: str = Field(
        description="Repository or folder. Example: oci://registry.example.com/models/support."
    )
    content: str = Field(
        description="SHA-256 digest (hex) of the manifest.json of the published folder."
    )
    digest: str | None = Field(
        None,
        pattern=CONTENT_DIGEST,
        description="Digest of the content at the target: of the manifest of the OCI image, of "
        "manifest.json in S3, or of the commit on a hub.",
    )
    manifest: str | None = Field(
        None,
        pattern=SHA256,
        description="SHA-256 digest (hex) of the published manifest.json, which has the digests of "
        "all files.",
    )
    attestation: str | None = Field(
        None,
        pattern=SHA256,
        description="SHA-256 digest (hex) of the signed statement about the content that the "
        "target holds. Present only if the operator has a signing key.",
    )
    attestation_due: bool | None = Field(
        None,
        description="Whether the operator still adds a signed statement to the content. Present "
        "only if the operator had a signing key when the content was published, or when its files "
        "were listed for a hub.",
    )
    files: str | None = Field(
        None,
        description="Compressed list of the files of a folder in S3, or of those that a hub is "
        "about to get, with their digests. The operator signs it. Absent after that.",
    )
    tags: list[str] | None = Field(
        None,
        description="Tags, or the branch of a hub, that the operator knows to refer to the "
        "content.",
    )
    bytes: int | None = Field(None, description="Size of the content in bytes.")
    time: str = Field(
        description="End of the attempt that published the content, or that failed.",
        json_schema_extra={"format": "date-time"},
    )
    error: PublicationError | None = Field(
        None, description="Why publishing failed. Absent if the target holds the content."
    )
