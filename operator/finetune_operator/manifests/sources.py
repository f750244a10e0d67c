"""Access of the prepare pod to model and dataset sources: claims, certificates, credentials.

No other pod has this access. Claims are mounted read-only, each once, below ``SOURCES``. Files from
ConfigMaps are in the config volume. Secrets are environment variables that the kubelet resolves.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from finetune_api.contracts.provenance.signatures import RequiredSignature
from finetune_api.policy.signatures import covers, what_of
from finetune_api.safety.credentials import DOCKER_CONFIG, S3_KEYS
from finetune_api.v1alpha1.data.rows import Rows
from finetune_api.v1alpha1.model import Model
from finetune_api.v1alpha1.sources import (
    CLAIM_SOURCE_PREFIX,
    CONFIGMAP_SOURCE_PREFIX,
    Kind,
    prefix_of,
)
from finetune_api.v1alpha1.spec import FineTuneJobSpec
from finetune_api.v1alpha1.training.start_from import START_FROM, StartFrom

SOURCES = "/sources"
DOCKER_CONFIG_KEY = ".dockerconfigjson"
"""Key of Secrets of the type kubernetes.io/dockerconfigjson."""


def volumes(spec: FineTuneJobSpec) -> list[dict[str, Any]]:
    """Return the volumes of the claims, one for each claim."""
    return [
        {
            "name": f"source-{index}",
            "persistentVolumeClaim": {"claimName": claim, "readOnly": True},
        }
        for index, claim in enumerate(_claims(spec))
    ]


def mounts(spec: FineTuneJobSpec) -> list[dict[str, Any]]:
    """Return the mounts of these volumes."""
    return [
        {"name": f"source-{index}", "mountPath": f"{SOURCES}/{claim}", "readOnly": True}
        for index, claim in enumerate(_claims(spec))
    ]


def files(spec: FineTuneJobSpec) -> list[dict[str, Any]]:
    """Return sources for the config volume: CA certificates, and rows in ConfigMaps."""
    projections = []
    for kind, part in _parts(spec):
        source = _source(part)
        if source.startswith(CONFIGMAP_SOURCE_PREFIX):
            name, key = source.removeprefix(CONFIGMAP_SOURCE_PREFIX).split("/", 1)
            projections.append(file(name, key, f"{kind}/{key}"))
        if part.ca_config_map_ref is not None:
            reference = part.ca_config_map_ref
            projections.append(file(reference.name, reference.key, f"ca/{kind}.crt"))
    return projections


def file(configmap: str, key: str, path: str) -> dict[str, Any]:
    """Return the projection of one key of a ConfigMap to a path."""
    return {"configMap": {"name": configmap, "items": [{"key": key, "path": path}]}}


def environment(spec: FineTuneJobSpec) -> list[dict[str, Any]]:
    """Return the variables with credentials and regions, each prefixed with its source."""
    variables: list[dict[str, Any]] = []
    for kind, part in _parts(spec):
        prefix = prefix_of(kind)
        if part.token_secret_ref is not None:
            name = "HF_TOKEN" if _source(part).startswith("hf://") else "HTTPS_TOKEN"
            reference = part.token_secret_ref
            variables.append(secret(f"{prefix}_{name}", reference.name, reference.key))
        if part.s3.region is not None:
            variables.append({"name": f"{prefix}_AWS_REGION", "value": part.s3.region})
        if part.s3.secret_ref is not None:
            keys = part.s3.secret_ref.name
            variables += [
                secret(f"{prefix}_{key}", keys, key, optional=optional)
                for key, optional in S3_KEYS.items()
            ]
        image = None if isinstance(part, Rows) else part.oci
        if image is not None and image.secret_ref is not None:
            variables.append(
                secret(f"{prefix}_{DOCKER_CONFIG}", image.secret_ref.name, DOCKER_CONFIG_KEY)
            )
    cache = spec.storage.base_cache
    if cache is not None:
        path = "/".join(filter(None, (SOURCES, cache.claim_name, cache.sub_path)))
        variables.append({"name": "FINETUNE_BASE_CACHE", "value": path})
    return variables


def identity(spec: FineTuneJobSpec) -> dict[str, Any]:
    """Return the service account of the pod: a cloud identity, no token for the Kubernetes API."""
    account = spec.access.service_account_name
    return {} if account is None else {"serviceAccountName": account}


def required_signatures(
    spec: FineTuneJobSpec, required: Iterable[RequiredSignature]
) -> tuple[RequiredSignature, ...]:
    """Return the signatures that sources of a job need.

    Without those that no source needs: their keys may change without another attempt, and an
    earlier trainer image, which cannot verify any, works as before.
    """
    used = [(what_of(kind), _source(part)) for kind, part in _parts(spec)]
    return tuple(
        signature
        for signature in required
        if any(
            what in signature.what and covers(signature.sources, source) for what, source in used
        )
    )


def has_identity(spec: FineTuneJobSpec) -> bool:
    """Report whether the pods that connect to the outside can have a cloud identity."""
    return spec.access.service_account_name is not None


def _parts(spec: FineTuneJobSpec) -> Iterator[tuple[Kind, Model | Rows | StartFrom]]:
    yield "model", spec.model
    if spec.training.start_from is not None:
        yield START_FROM, spec.training.start_from
    yield from spec.rows_of_training.items()
    if spec.evaluation.dataset is not None:
        yield "evaluation.dataset", spec.evaluation.dataset


def _source(part: Model | Rows | StartFrom) -> str:
    """Return the place of a source; that of another job's adapter is known in a target."""
    assert part.source is not None
    return part.source


def _claims(spec: FineTuneJobSpec) -> Iterator[str]:
    claims = [
        _source(part).removeprefix(CLAIM_SOURCE_PREFIX).split("/", 1)[0]
        for _, part in _parts(spec)
        if _source(part).startswith(CLAIM_SOURCE_PREFIX)
    ]
    if spec.storage.base_cache is not None:
        claims.append(spec.storage.base_cache.claim_name)
    yield from dict.fromkeys(claims)


def secret(variable: str, name: str, key: str, *, optional: bool = False) -> dict[str, Any]:
    """Return the variable that the kubelet sets from a key of a Secret."""
    reference: dict[str, Any] = {"name": name, "key": key}
    if optional:
        reference["optional"] = True
    return {"name": variable, "valueFrom": {"secretKeyRef": reference}}
