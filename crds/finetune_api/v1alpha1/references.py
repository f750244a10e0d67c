"""References to other objects in the job's namespace. The operator never reads these objects."""

from typing import Any, ClassVar

from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import matches

NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
KEY = r"^[-._A-Za-z0-9]+$"


def object_name(
    text: str,
    default: Any = ...,
    *,
    kind: str,
    max_length: int = 253,
    builtin: str | None = None,
    edit: Edit = Edit.RETRY,
) -> Any:
    """Declare a field that names an object of a kind, such as ``StorageClass``."""
    message = f"use only lower-case letters, digits, '-' and '.' in the name of a {kind}"
    return field(
        text,
        default,
        edit=edit,
        builtin=builtin,
        max_length=max_length,
        rules=(matches(NAME, message),),
    )


def object_key(text: str, default: str, *, kind: str) -> Any:
    """Declare a field that names a key of a Secret or ConfigMap."""
    message = (
        f"use only letters, digits, '-', '_' and '.' in a key of a {kind} (default: {default})"
    )
    return field(text, default, edit=Edit.RETRY, max_length=253, rules=(matches(KEY, message),))


def _in_namespace(kind: str) -> Any:
    return object_name(f"Name of the {kind} in the job's namespace.", kind=kind)


class SecretRef(ApiModel):
    """A Secret in the job's namespace of which several keys are used."""

    atomic: ClassVar[bool] = True
    name: str = _in_namespace("Secret")


class SecretKeyRef(ApiModel):
    """A key of a Secret in the job's namespace. Only the kubelet reads it."""

    atomic: ClassVar[bool] = True
    name: str = _in_namespace("Secret")
    key: str = object_key(
        "Key of an entry in the Secret. Only the value of this entry is used.",
        "token",
        kind="Secret",
    )


class ConfigMapKeyRef(ApiModel):
    """A key of a ConfigMap in the job's namespace that holds certificates."""

    atomic: ClassVar[bool] = True
    name: str = _in_namespace("ConfigMap")
    key: str = object_key(
        "Key of an entry in the ConfigMap. The entry contains the CA certificates in PEM format.",
        "ca.crt",
        kind="ConfigMap",
    )
