"""Sources of a model or a dataset, and the fields that describe access to each kind of source."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import Rule, is_set, matches, requires, starts_with
from finetune_api.v1alpha1.references import SecretRef

Kind = str
"""Path in the spec of what a source belongs to: ``model``, ``training.startFrom``, ``dataset``,
``evaluation.dataset``, or ``datasets[name]`` for one of several datasets."""

_STEP = r"(/[A-Za-z0-9_@+=,~-][A-Za-z0-9._@+=,~-]*)"
"""One step of a path. A step must not begin with a dot, so that a path cannot leave its folder."""

PORT = ":[1-9][0-9]{0,4}"
"""A port has no leading zeros, so that patterns of a policy meet one spelling of it."""

HF_SOURCE = r"^hf://[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$"
CLAIM_SOURCE = rf"^pvc://[a-z0-9][a-z0-9.-]*{_STEP}*$"
S3_SOURCE = rf"^s3://[a-z0-9][a-z0-9.-]{{1,61}}[a-z0-9]{_STEP}*$"
HTTPS_SOURCE = rf"^https://[A-Za-z0-9][A-Za-z0-9.-]*({PORT})?{_STEP}+$"
OCI_REPOSITORY = (
    rf"[a-z0-9][a-z0-9-]*((\.[a-z0-9-]+)+({PORT})?|{PORT})(/[a-z0-9]+([._-]+[a-z0-9]+)*)+"
)
"""A registry, whose first component has a dot or a port, and the path of a repository."""
OCI_SOURCE = (
    rf"^oci://{OCI_REPOSITORY}(:[A-Za-z0-9_][A-Za-z0-9._-]{{0,127}}|@sha256:[0-9a-f]{{64}})?$"
)
CONFIGMAP_SOURCE = r"^configmap://[a-z0-9][a-z0-9.-]*/[A-Za-z0-9._-]+$"
HF_SOURCE_PREFIX = "hf://"
CONFIGMAP_SOURCE_PREFIX = "configmap://"
CLAIM_SOURCE_PREFIX = "pvc://"
OCI_SOURCE_PREFIX = "oci://"
LIST_OF_SUMS = "SHA256SUMS"
SCHEMES_OF_FIELD = {
    "revision": ("hf",),
    "tokenSecretRef": ("hf", "https"),
    "sha256": ("https",),
    "caConfigMapRef": ("hf", "https", "s3"),
    "s3.endpoint": ("s3",),
    "s3.region": ("s3",),
    "s3.secretRef": ("s3",),
}
"""Fields next to ``source``, and the kinds of source that each of them applies to."""
SCHEMES_OF_ROWS_FIELD = {"config": ("hf",)}
"""The same for fields that only datasets have."""
SCHEMES_OF_MODEL_FIELD = {
    "caConfigMapRef": ("hf", "https", "s3", "oci"),
    "oci": ("oci",),
}
"""The same for fields of a model, which can be an image in a registry, where it differs."""


def s3_region(*, edit: Edit) -> str | None:
    """Return the field with the region of a bucket."""
    region: str | None = field(
        "Region of the S3 bucket.",
        None,
        edit=edit,
        builtin="us-east-1",
        max_length=63,
        rules=(
            matches(
                r"^[a-z0-9][a-z0-9-]*$", "write s3.region as a single name, such as eu-central-1"
            ),
        ),
    )
    return region


class S3(ApiModel):
    """Access to an s3:// source."""

    endpoint: str | None = field(
        "URL of the S3 service, such as https://minio.storage.svc:9000.",
        None,
        edit=Edit.RETRAIN,
        builtin="the Amazon S3 endpoint of the region",
        max_length=512,
        rules=(
            matches(
                rf"^https?://[A-Za-z0-9][A-Za-z0-9.-]*({PORT})?/?$",
                "write s3.endpoint as the URL of an S3 service, such as "
                "https://minio.storage.svc:9000",
            ),
        ),
    )
    region: str | None = s3_region(edit=Edit.RETRY)
    secret_ref: SecretRef | None = field(
        "Secret with the keys AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, optionally, "
        "AWS_SESSION_TOKEN. Only the prepare pod receives the values of these keys.",
        None,
        edit=Edit.RETRY,
        unset="the prepare pod uses the cloud identity of access.serviceAccountName. If "
        "access.serviceAccountName is also unset, the prepare pod uses anonymous access",
    )


class OCI(ApiModel):
    """Access to an oci:// source."""

    atomic: ClassVar[bool] = True
    secret_ref: SecretRef | None = field(
        "Secret of the type kubernetes.io/dockerconfigjson with the credentials for the registry. "
        "Only the prepare pod receives its key .dockerconfigjson.",
        None,
        edit=Edit.RETRY,
        unset="the prepare pod uses anonymous access",
    )


def revision(what: str) -> Any:
    """Declare ``revision`` of a model or dataset."""
    return field(
        f"Branch, tag or commit of the {what} repository on the Hugging Face Hub. The prepare pod "
        "resolves a branch or tag to a commit before it starts the download. Used only with "
        "hf:// sources.",
        None,
        edit=Edit.RETRAIN,
        builtin="main",
        min_length=1,
        max_length=128,
    )


def sha256(what: str) -> Any:
    """Declare ``sha256`` of a model or dataset."""
    return field(
        "SHA-256 digest, in hex, of the file at an https:// source. Required for https:// sources. "
        "The download fails if the file has a different digest. If the file is a "
        f"{LIST_OF_SUMS} list, each file of the {what} must match its digest in the list.",
        None,
        edit=Edit.RETRAIN,
        builtin="none",
        max_length=64,
        rules=(
            matches(
                r"^[0-9a-f]{64}$",
                "write sha256 as 64 lower-case hex digits, as sha256sum prints it",
            ),
        ),
    )


def token(what: str) -> Any:
    """Declare ``tokenSecretRef`` of a model or dataset."""
    return field(
        f"Secret with the access token for a gated or private {what}: a Hugging Face token, or the "
        "bearer token for an https:// server. Only the prepare pod receives the token.",
        None,
        edit=Edit.RETRY,
        unset=f"the {what} must be public",
    )


def ca(what: str, servers: str = "the hub, an https:// server or an S3 service") -> Any:
    """Declare ``caConfigMapRef`` of a model or dataset."""
    return field(
        "ConfigMap with additional CA certificates in PEM format. The prepare pod trusts these "
        f"certificates when it downloads the {what} from {servers}.",
        None,
        edit=Edit.RETRY,
        builtin="only the CA certificates in the trainer image and in the chart value "
        "caCertificates",
    )


def s3(what: str) -> Any:
    """Declare ``s3`` of a model or dataset."""
    return field(f"Access settings for an s3:// source of the {what}.", S3(), edit=Edit.RETRAIN)


def oci(what: str) -> Any:
    """Declare ``oci`` of a model."""
    return field(
        f"Access settings for an oci:// source of the {what}.",
        None,
        edit=Edit.RETRY,
        unset="the prepare pod uses anonymous access",
    )


def prefix_of(kind: Kind) -> str:
    """Return the prefix of the environment variables that describe access to a source.

    The prefixes of one job differ: a rule of ``datasets`` rejects names with the same prefix.
    """
    return re.sub(r"[^A-Z0-9]+", "_", kind.upper()).strip("_")


def rules(
    what: Kind, schemes_of_field: Mapping[str, tuple[str, ...]] = SCHEMES_OF_FIELD
) -> tuple[Rule, ...]:
    """Return the rules that tie the fields of a model or dataset to its source."""
    return (
        requires(
            starts_with("source", "https://"),
            is_set("sha256"),
            f"the content at an https:// URL can change: set {what}.sha256 to the digest "
            "printed by sha256sum",
        ),
        *(only_for(what, path, schemes) for path, schemes in schemes_of_field.items()),
    )


def inapplicable_fields(source: str) -> list[tuple[str, ...]]:
    """Return the paths of the fields that do not apply to this kind of source."""
    scheme = source.split("://", 1)[0]
    return [
        tuple(path.split("."))
        for path, schemes in (
            SCHEMES_OF_FIELD | SCHEMES_OF_ROWS_FIELD | SCHEMES_OF_MODEL_FIELD
        ).items()
        if scheme not in schemes
    ]


def only_for(what: Kind, path: str, schemes: tuple[str, ...]) -> Rule:
    """Return the rule that a field is set only for some kinds of source."""
    prefixes = tuple(f"{scheme}://" for scheme in schemes)
    return requires(
        is_set(path),
        starts_with("source", *prefixes),
        f"{what}.{path} applies only to {listed(prefixes)} sources: remove it",
    )


def listed(words: tuple[str, ...]) -> str:
    """Return the words as a list in a sentence."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
