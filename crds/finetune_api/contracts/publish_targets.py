"""The targets of the publish stage, as its request names them: where they are, and what they get.

Fields of them may be added by the rules of ``stage_request``, of which they are a part.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from finetune_api.base import CamelModel


class SharedEndpoint(CamelModel):
    """A FineTuneEndpoint, as far as an adapter must suit it."""

    name: str
    """For messages."""
    base: Literal["dequantized", "original"] = "dequantized"
    max_rank: int
    """``lora.maxRank``: highest rank of an adapter."""
    model: str
    """``model.source`` of the endpoint."""
    source: str | None = None
    """``contracts.endpoint.source_digest`` of its base; None until the base is made."""
    codes: str | None = None
    """``contracts.endpoint.codes_digest`` of a dequantized base."""


class OCITarget(CamelModel):
    """A repository of an OCI registry."""

    repository: str
    """Host, optional port, and path, such as ``registry.example.com/models/support``."""
    ca: str | None = None
    """Path of a file with additional CA certificates in PEM format."""


class S3Target(CamelModel):
    """A prefix in an S3 bucket."""

    uri: str
    """``s3://BUCKET`` or ``s3://BUCKET/PREFIX``, without a slash at the end."""
    endpoint: str | None = None
    """URL of the S3 service; None for the Amazon S3 endpoint of the region."""
    region: str | None = None
    """Region of the bucket; None for us-east-1."""
    ca: str | None = None
    """Path of a file with additional CA certificates in PEM format."""


class HuggingFaceTarget(CamelModel):
    """A branch of a model repository on a hub."""

    repo: str
    """``OWNER/NAME``."""
    branch: str = "main"
    private: bool = True
    """Whether a new repository is private, and a public one is refused."""
    endpoint: str | None = None
    """URL of the hub; None for the public one."""
    ca: str | None = None
    """Path of a file with additional CA certificates in PEM format."""


class MLflowTarget(CamelModel):
    """An MLflow tracking server, which gets the results of a training as one run."""

    uri: str
    experiment: str
    run: str
    """Value of the tag by which the run is found again."""
    started: int
    """Start of the training, in milliseconds since 1970."""
    registered_model: str | None = None
    source: str | None = None
    """URI of the published model of which a version is registered; None registers none."""
    tags: Mapping[str, str] = Field(default_factory=dict)
    ca: str | None = None
    """Path of a file with additional CA certificates in PEM format."""


class EndpointTarget(CamelModel):
    """The claim of a shared endpoint, of which the pod mounts the folder of the job.

    It gets ``adapter/`` and ``reference/`` in a folder that is named by the adapter's manifest.
    """

    shared: SharedEndpoint
    folder: str
    """Path of the mounted folder."""
    path: str
    """``contracts.endpoint.published_root`` of the job: the same folder, on the claim."""
    reference: str
    """SHA-256 (hex) of ``reference/manifest.json``, from the ledger; an empty text if it has none.
    """
    keep: tuple[str, ...] = ()
    """Names of the folders of other revisions that are still needed. All others are deleted."""


class ModelSignature(CamelModel):
    """The operator's signature of the files of a folder, which the stage stores as ``model.sig``.

    The stage makes the statement itself (``attestation.model_statement``), from manifest.json.
    """

    signature: str
    """In base64."""
    payload: str
    """SHA-256 (hex) of the statement that was signed."""


class PublishTargetRequest(CamelModel):
    """One target of the publish stage, in the one place that is set.

    Its credentials are in environment variables with a prefix of their own
    (``credentials.of_target``).
    """

    name: str
    """Name of the entry of ``spec.publish``."""
    what: Literal["adapter", "merged"]
    """The folder of the volume that is published."""
    content: str
    """SHA-256 (hex) of its manifest.json, from the ledger. The stage rejects any other content;
    the operator passes an empty text if the ledger has none."""
    version: str
    """Name of the content at the target, ``naming.published_name``: it never names other
    content."""
    tags: tuple[str, ...] = ()
    """Names of the content that may move to other content."""
    overwrite: bool = False
    """Whether a tag or branch moves although it refers to content of others."""
    own: tuple[str, ...] = ()
    """Digests of contents that this job has published, as ``sha256:HEX``, or ``sha1:HEX`` for a
    commit. A tag or branch moves from these only, or if it does not exist yet."""
    annotations: Mapping[str, str] = Field(default_factory=dict)
    """Properties of the content to be recorded with it at the target."""
    attestation: str | None = None
    """A Sigstore bundle, as JSON, with a statement of the operator. In a registry and a bucket it
    is about what the target already holds, so the stage only adds it. A hub gets it in one commit
    with the files."""
    attested: str | None = None
    """Digest that the statement is about, ``sha256:HEX``: of what the target holds or, on a hub,
    of the published manifest.json. On a hub, an empty text without ``attestation`` asks for the
    list of files, which the operator signs before they are sent; an earlier image ignores that, and
    publishes them without a statement."""
    model_signature: ModelSignature | None = None
    """Set only together with ``attestation``, if the operator knows the files of the folder."""
    oci: OCITarget | None = None
    s3: S3Target | None = None
    hugging_face: HuggingFaceTarget | None = None
    mlflow: MLflowTarget | None = None
    """It gets the results of the training of the adapter, and no files."""
    endpoint: EndpointTarget | None = None
