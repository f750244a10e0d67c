"""Withhold credentials that the author of a spec did not write from sources of the author. Pure.

A credential of a lower layer, the chart defaults, is used only where that layer configured it:

* A Secret or certificates next to a source are for this source. If the layer names no source, they
  are for the hub and for the S3 service at the layer's endpoint (Amazon S3 if it has none). They
  are for no https:// or oci:// source then, since the layer names no server.
* The service account is for the s3:// sources of the layer. If the layer has none, the account is
  for every s3:// source at the layer's endpoint. A source with a Secret does not use the account.
* An entry of ``publish`` is atomic, so that a Secret or certificates in it are for its target. The
  service account is for the targets in S3 of the layer.
* With other certificates, another server can pass as the configured one. If the author wrote some,
  no Secret and no service account of the lower layer is used next to them. The certificates of an
  hf:// source apply to all connections of the pod.

Secrets that are not next to a source stay in the pods of the job, and have no such limit. No field
with a credential is in the hash of a revision.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from pydantic import BaseModel

from finetune_api.base import Values
from finetune_api.fitting import DATASET, WITH_SOURCE
from finetune_api.layering import Path, has, value_at, with_value, without
from finetune_api.v1alpha1.data.rows import Rows
from finetune_api.v1alpha1.model import Model
from finetune_api.v1alpha1.references import ConfigMapKeyRef, SecretKeyRef, SecretRef
from finetune_api.v1alpha1.training.start_from import StartFrom

ACCOUNT: Path = ("access", "serviceAccountName")
KEYS: Path = ("s3", "secretRef")
ENDPOINT: Path = ("s3", "endpoint")
IMAGE: Path = ("oci",)

Place = tuple[str, Any]
"""The value of ``source`` and, for an s3:// source, the endpoint."""


def fields_of(group: type[BaseModel], *types: type) -> Iterator[Path]:
    """Yield the paths of the fields of a group, and of groups in it, that have one of the types."""
    for name, info in group.model_fields.items():
        alias = info.alias or name
        for kind in _parts_of(info.annotation):
            if kind in types:
                yield (alias,)
            elif isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from ((alias, *inner) for inner in fields_of(kind, *types))


def _parts_of(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _parts_of(part)


def _next_to_source(*types: type) -> frozenset[Path]:
    return frozenset(
        path for group in (Model, Rows, StartFrom) for path in fields_of(group, *types)
    )


SECRETS = _next_to_source(SecretKeyRef, SecretRef)
CERTIFICATES = _next_to_source(ConfigMapKeyRef)


def without_foreign_credentials(values: Values, written: Sequence[Values], lower: Values) -> Values:
    """Return completed values without the credentials that ``lower`` configured for other sources.

    written: the author's values, once for each entry of ``datasets``, in the order of ``values``.
    """
    paths = [path for path in WITH_SOURCE if isinstance(value_at(values, path), dict)]
    layers = (values, written[0], lower)
    sources = [_Source(*(value_at(layer, path) or {} for layer in layers)) for path in paths]
    below = value_at(lower, DATASET) or {}
    listed = values["datasets"] if "datasets" in values.keys() - written[0].keys() else []
    sources += [
        _Source(completed, spec["dataset"], below)
        for completed, spec in zip(listed, written, strict=False)
    ]

    trusted = not any(source.is_on_hub and source.has_own_certificates for source in sources)
    sources = [source.without_foreign(trusted=trusted) for source in sources]
    for path, source in zip(paths, sources, strict=False):
        values = with_value(values, path, source.completed)
    if listed:
        values = {**values, "datasets": [source.completed for source in sources[len(paths) :]]}

    configured = [_place(value_at(lower, path) or {}) for path in WITH_SOURCE]
    buckets = [place for place in configured if _is_bucket(place)]
    users = [source for source in sources if source.uses_account]
    if has(written[0], *ACCOUNT) or (
        all(trusted and user.is_at(buckets) and not user.has_own_certificates for user in users)
        and all(target in _targets_with_account(lower) for target in _targets_with_account(values))
    ):
        return values
    return without(values, ACCOUNT)


def _targets_with_account(values: Values) -> list[Values]:
    """Return the places in S3 to which the job publishes with the identity of its account."""
    targets = values.get("publish")
    entries = targets if isinstance(targets, list) else []
    places = [target.get("s3") for target in entries if isinstance(target, dict)]
    return [
        target for target in places if isinstance(target, dict) and not has(target, "secretRef")
    ]


@dataclass(frozen=True)
class _Source:
    """A model or dataset: completed, as the author wrote it, and in the lower layer."""

    completed: Values
    written: Values
    lower: Values

    @property
    def is_on_hub(self) -> bool:
        return _place(self.completed)[0].startswith("hf://")

    @property
    def uses_account(self) -> bool:
        return _is_bucket(_place(self.completed)) and not has(self.completed, *KEYS)

    @property
    def has_own_certificates(self) -> bool:
        """Whether the author wrote certificates that are not those of the lower layer."""
        return any(
            value_at(self.written, path) not in (None, value_at(self.lower, path))
            for path in CERTIFICATES
        )

    def without_foreign(self, *, trusted: bool) -> "_Source":
        """Return the source without the credentials that the lower layer configured for others."""
        configured = [_place(self.lower)] if has(self.lower, "source") else []
        removed: set[Path] = set()
        if not self.is_at(configured):
            removed |= SECRETS | CERTIFICATES
        elif not trusted or self.has_own_certificates:
            removed |= SECRETS
        removed = {path for path in removed if not has(self.written, *path)}
        # An atomic group is removed as a whole: an empty one would be a value of its own.
        paths = (IMAGE if path[:1] == IMAGE else path for path in removed)
        return replace(self, completed=without(self.completed, *paths))

    def is_at(self, configured: Sequence[Place]) -> bool:
        """Report whether the lower layer configured its credentials for this source.

        configured: the sources that the layer names.
        """
        place = _place(self.completed)
        if configured:
            return place in configured
        own_endpoint = place[1] == value_at(self.lower, ENDPOINT)
        return self.is_on_hub or (_is_bucket(place) and own_endpoint)


def _place(group: Values) -> Place:
    source = str(group.get("source"))
    return source, value_at(group, ENDPOINT) if source.startswith("s3://") else None


def _is_bucket(place: Place) -> bool:
    return place[0].startswith("s3://")
