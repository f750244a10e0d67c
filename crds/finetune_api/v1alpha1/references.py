"""Other objects in a job's namespace, by name. The operator reads none; the kubelet does."""

from typing import Any, ClassVar

from finetune_api.markers import ApiModel, Edit, field, matches

NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
KEY = r"^[-._A-Za-z0-9]+$"


def named(
    text: str, default: Any = ..., *, what: str, longest: int = 253, builtin: str | None = None
) -> Any:
    """Declare a field that names an object.

    what: the subject of the sentence that refuses a wrong name, such as "a claim's name".
    """
    return field(
        text,
        default,
        edit=Edit.RETRY,
        builtin=builtin,
        max_length=longest,
        rules=(matches(NAME, f"{what} has lower-case letters, digits, '-' and '.' only"),),
    )


def key_in(text: str, default: str, *, kind: str) -> Any:
    """Declare a field that names a key of a Secret or ConfigMap."""
    message = f"a key of a {kind} has letters, digits, '-', '_' and '.' only, such as {default}"
    return field(text, default, edit=Edit.RETRY, max_length=253, rules=(matches(KEY, message),))


def _in_namespace(kind: str) -> Any:
    return named(f"Name of the {kind}, in the job's namespace.", what=f"a {kind}'s name")


class SecretRef(ApiModel):
    """A Secret in the job's namespace, of which several keys are used."""

    atomic: ClassVar[bool] = True
    name: str = _in_namespace("Secret")


class SecretKeyRef(ApiModel):
    """A key of a Secret in the job's namespace. The operator never reads it; the kubelet does."""

    atomic: ClassVar[bool] = True
    name: str = _in_namespace("Secret")
    key: str = key_in("Key in the Secret that holds the token.", "token", kind="Secret")


class ConfigMapKeyRef(ApiModel):
    """A key of a ConfigMap in the job's namespace that holds certificates."""

    atomic: ClassVar[bool] = True
    name: str = _in_namespace("ConfigMap")
    key: str = key_in(
        "Key in the ConfigMap that holds the certificates, in PEM.", "ca.crt", kind="ConfigMap"
    )
