"""Where a model or a dataset may come from, and what each kind of source needs to be read.

A source is one address; the fields beside it say how it is reached and what it has to be. Each
belongs to some kinds of source only, which ``rules`` hold users to.
"""

from typing import Any, Literal

from finetune_api.markers import ApiModel, Edit, Rule, field, matches
from finetune_api.v1alpha1.references import SecretRef

Kind = Literal["model", "dataset", "evaluation.dataset"]
"""What is read, by its place in the spec."""

_STEP = r"(/[A-Za-z0-9_@+=,~-][A-Za-z0-9._@+=,~-]*)"
"""One step of a path; none begins with a dot, so none leads upwards."""

HF_SOURCE = r"^hf://[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$"
CLAIM_SOURCE = rf"^pvc://[a-z0-9][a-z0-9.-]*{_STEP}*$"
S3_SOURCE = rf"^s3://[a-z0-9][a-z0-9.-]{{1,61}}[a-z0-9]{_STEP}*$"
HTTPS_SOURCE = rf"^https://[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?{_STEP}+$"
CONFIGMAP_SOURCE = r"^configmap://[a-z0-9][a-z0-9.-]*/[A-Za-z0-9._-]+$"
CONFIGMAP_SOURCE_PREFIX = "configmap://"
CLAIM_SOURCE_PREFIX = "pvc://"
LIST_OF_SUMS = "SHA256SUMS"
ONLY_FOR = {
    ("revision",): ("hf",),
    ("tokenSecretRef",): ("hf", "https"),
    ("sha256",): ("https",),
    ("caConfigMapRef",): ("https", "s3"),
    ("s3", "endpoint"): ("s3",),
    ("s3", "region"): ("s3",),
    ("s3", "secretRef"): ("s3",),
}
"""The kinds of source that the fields beside ``source`` are for."""


class S3(ApiModel):
    """How an s3:// source is reached."""

    endpoint: str | None = field(
        "Address of the S3 service, such as https://minio.storage.svc:9000.",
        None,
        edit=Edit.RETRAIN,
        builtin="Amazon's, for the region",
        max_length=512,
        rules=(
            matches(
                r"^https?://[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?/?$",
                "endpoint is the address of an S3 service, such as https://minio.storage.svc:9000",
            ),
        ),
    )
    region: str | None = field(
        "Region of the bucket.",
        None,
        edit=Edit.RETRY,
        builtin="us-east-1",
        max_length=63,
        rules=(matches(r"^[a-z0-9][a-z0-9-]*$", "a region is one name, such as eu-central-1"),),
    )
    secret_ref: SecretRef | None = field(
        "Secret with the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_SESSION_TOKEN "
        "where there is one. Only the stage pod gets them.",
        None,
        edit=Edit.RETRY,
        builtin="none: the cloud identity of access.serviceAccountName, or anonymous access",
    )


def revision(what: str) -> Any:
    """Declare ``revision`` of a model or dataset."""
    return field(
        f"Branch, tag or commit of the {what}'s repository on the hub. It is pinned to a commit "
        "before the first byte.",
        None,
        edit=Edit.RETRAIN,
        builtin="main, where source is hf://",
        min_length=1,
        max_length=128,
    )


def sha256(what: str) -> Any:
    """Declare ``sha256`` of a model or dataset."""
    return field(
        f"SHA-256 of the file that an https:// source names, in hex: the {what} is that, or "
        f"nothing. Of a {LIST_OF_SUMS} list, which names the files beside it with theirs, it pins "
        "them all.",
        None,
        edit=Edit.RETRAIN,
        builtin="none; https:// needs it",
        max_length=64,
        rules=(
            matches(r"^[0-9a-f]{64}$", "sha256 is 64 lower-case hex digits, as sha256sum prints"),
        ),
    )


def token(what: str) -> Any:
    """Declare ``tokenSecretRef`` of a model or dataset."""
    return field(
        f"Secret with the token for a gated or private {what}: the hub's, or what an https:// "
        "server takes as bearer token. Only the stage pod gets it.",
        None,
        edit=Edit.RETRY,
        builtin=f"none, which is enough for public {what}s",
    )


def ca(what: str) -> Any:
    """Declare ``caConfigMapRef`` of a model or dataset."""
    return field(
        "ConfigMap with the certificate of the authority that an https:// server's or S3 service's "
        "own is signed by.",
        None,
        edit=Edit.RETRY,
        builtin="the authorities that the image trusts",
    )


def s3(what: str) -> Any:
    """Declare ``s3`` of a model or dataset."""
    return field(f"How an s3:// source of the {what} is reached.", S3(), edit=Edit.RETRAIN)


def prefix_of(kind: Kind) -> str:
    """Return what the variables begin with that say how a source is reached."""
    return kind.upper().replace(".", "_")


def rules(what: Kind) -> tuple[Rule, ...]:
    """Return the rules that tie the fields of a model or of rows to its source."""
    return (
        Rule(
            cel="!self.source.startsWith('https://') || has(self.sha256)",
            message=f"what https:// answers may change at any time: write {what}.sha256, as "
            "sha256sum prints it",
            fails=lambda part: part.source.startswith("https://") and part.sha256 is None,
        ),
        *(_only_for(what, path, schemes) for path, schemes in ONLY_FOR.items()),
    )


def unfit(source: str) -> list[tuple[str, ...]]:
    """Return the fields that a source of this kind does not take."""
    scheme = source.split("://", 1)[0]
    return [path for path, schemes in ONLY_FOR.items() if scheme not in schemes]


def _only_for(what: Kind, path: tuple[str, ...], schemes: tuple[str, ...]) -> Rule:
    kinds = tuple(f"{scheme}://" for scheme in schemes)
    begins = " || ".join(f"self.source.startsWith('{kind}')" for kind in kinds)
    written = " && ".join(f"has(self.{'.'.join(path[: depth + 1])})" for depth in range(len(path)))
    name = ".".join((what, *path))
    return Rule(
        cel=f"!({written}) || {begins}",
        message=f"{name} is for {' and '.join(kinds)} sources only: remove it",
        fails=lambda part: not part.source.startswith(kinds) and _written(part, path),
    )


def _written(part: ApiModel, path: tuple[str, ...]) -> bool:
    value: Any = part
    for step in path:
        names = {info.alias or name: name for name, info in type(value).model_fields.items()}
        value = getattr(value, names[step])
        if value is None:
            return False
    return True
