"""Objects reduced to the fields that a snapshot uses. Pure.

Users decide how large the objects with the label of a job are, and anybody may set this label. So
every object is trimmed on arrival: unused fields are dropped, the data of a ConfigMap is replaced
by digests. In an object that is still too large, long texts are cut; of one that is too large even
then, only small fields are kept.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from finetune_api import API_VERSION
from finetune_api.revision_hash import text_digest
from finetune_operator.objects import naming
from finetune_operator.objects.compact.encoding import encoded
from finetune_operator.objects.compact.used_fields import (
    APPLIED,
    CONDITIONS,
    FIELDS,
    LABELS,
    METADATA,
)
from finetune_operator.objects.digest import sha256
from finetune_operator.types import Object

MAX_BYTES = 32 * 1024
"""Size of a trimmed object. Objects that the operator renders are smaller."""
MAX_VALUES = 3 * 1024
"""Values in a trimmed object, at any depth. An empty dict has 1 byte here, but 64 in a snapshot."""
MAX_FIELD_BYTES = 1024
"""Size of an owner, and of a field of spec or status, that a too large object keeps."""
MAX_TEXT = 4096
"""Characters of a text that such an object keeps: a complete termination message, which the kubelet
limits to as many bytes."""
MAX_NODE_NAME = 253
MAX_OWNERS = 16
MAX_MANAGERS = 16
PARTS = ("spec", "status")
DIGESTS = "digests"
"""Field of a trimmed ConfigMap: the digest of each value in ``data``, by key."""

MAX_DEPTH = 32
"""Levels of the defaults of a profile, which no schema limits. A FineTuneJob has fewer; Python
cannot encode a thousand."""
TOO_DEEP = "tooDeep"
"""Field of a trimmed profile: its defaults have more levels, and were removed."""

LABELS_DIGEST = "digest of all labels"
"""The only label of a trimmed object of our own kinds; no valid label has this key."""


def trimmed(item: Object) -> dict[str, Any]:
    """Return an object with the fields that a snapshot uses; ours keep spec and status.

    The result may share values with ``item``, which is not changed.
    """
    return fitted(reduced(item))[0]


def is_own(body: Object) -> bool:
    """Report whether an object is of one of our own kinds."""
    return bool(body["apiVersion"] == API_VERSION)


def reduced(item: Object) -> dict[str, Any]:
    """Return an object with the fields that a snapshot uses, however large they are."""
    kind = item["kind"]
    common = {"apiVersion": item["apiVersion"], "kind": kind, "metadata": _metadata(item)}
    if is_own(item):
        return _without_deep_defaults({**item, **common})
    result = {**common, **_selected(item, FIELDS.get(kind, {}))}
    if kind in CONDITIONS and (conditions := (result.get("status") or {}).get("conditions")):
        used = CONDITIONS[kind]
        result["status"]["conditions"] = [
            condition for condition in conditions if condition["type"] in used
        ]
    if kind == "ConfigMap" and (digests := _digests(item)) is not None:
        result[DIGESTS] = digests
    return result


def fitted(body: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Return a reduced object, shortened if it is too large, and its bytes."""
    data = encoded(body)
    if not _is_too_large(body, data):
        return body, data
    body = _shortened(body)
    return body, encoded(body)


def _without_deep_defaults(body: dict[str, Any]) -> dict[str, Any]:
    spec = body.get("spec")
    if not isinstance(spec, Mapping) or not _is_deeper(spec.get("defaults"), MAX_DEPTH):
        return body
    kept = {name: value for name, value in spec.items() if name != "defaults"}
    return {**body, "spec": kept, TOO_DEEP: True}


def _is_deeper(value: Any, levels: int) -> bool:
    """Report whether a value has more levels of dicts and lists."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list):
        return False
    return levels <= 0 or any(_is_deeper(inner, levels - 1) for inner in value)


def _is_too_large(body: dict[str, Any], data: bytes) -> bool:
    """Report whether a reduced object with these bytes must be shortened; one of ours never is."""
    if is_own(body):
        return False
    if len(data) > MAX_BYTES:
        return True
    # Each value has at least one byte.
    return len(data) > MAX_VALUES and _values(body) > MAX_VALUES


def _values(value: Any) -> int:
    """Return the number of values in a value, and itself."""
    if isinstance(value, dict):
        return 1 + sum(map(_values, value.values()))
    return 1 + sum(map(_values, value)) if isinstance(value, list) else 1


def _shortened(body: dict[str, Any]) -> dict[str, Any]:
    """Return a reduced object that is too large with shorter texts, and if needed fewer fields."""
    result = {**body, **{part: _cut(body[part]) for part in PARTS if part in body}}
    if _is_too_large(result, encoded(result)):
        metadata = result["metadata"]
        labels = metadata["labels"]
        result["metadata"] = {
            **metadata,
            "labels": {key: labels[key] for key in LABELS if key in labels},
        }
        if "ownerReferences" in metadata:
            result["metadata"]["ownerReferences"] = [
                owner for owner in metadata["ownerReferences"] if _is_small(owner)
            ]
        for part in PARTS:
            if isinstance(result.get(part), dict):
                result[part] = {
                    key: value for key, value in result[part].items() if _is_small(value)
                }
        if DIGESTS in result:
            # Too many keys: its data is not that of a revision.
            result[DIGESTS] = {}
    return result


def _cut(value: Any) -> Any:
    """Return a value in which no text is longer than ``MAX_TEXT``."""
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if isinstance(value, list):
        return [_cut(element) for element in value]
    if isinstance(value, Mapping):
        return {key: _cut(inner) for key, inner in value.items()}
    return value


def _metadata(item: Object) -> dict[str, Any]:
    metadata = item["metadata"]
    result: dict[str, Any] = {key: metadata[key] for key in METADATA if key in metadata}
    if is_own(item):
        # A user can set more than 1 MB of labels. A change of them causes a reconcile, no more.
        labels = metadata.get("labels")
        if labels and labels.keys() != {LABELS_DIGEST}:
            labels = {LABELS_DIGEST: sha256(labels)}
        result |= {"labels": labels} if labels else {}
        if annotations := naming.own_annotations(item):
            result["annotations"] = annotations
        return result
    result["labels"] = dict(metadata.get("labels") or {})
    if owners := metadata.get("ownerReferences"):
        # The controller is kept wherever it is in the list.
        ordered = sorted(owners, key=lambda owner: not owner.get("controller"))
        result["ownerReferences"] = owners if len(owners) <= MAX_OWNERS else ordered[:MAX_OWNERS]
    if len(node := naming.selected_node(item) or "") in range(1, MAX_NODE_NAME + 1):
        result["annotations"] = {naming.SELECTED_NODE: node}
    if item["kind"] in APPLIED and (authors := _authors(metadata.get("managedFields") or ())):
        result["managedFields"] = authors[-MAX_MANAGERS:]
    return result


def _authors(managers: Iterable[Object]) -> list[dict[str, Any]]:
    """Return who changed the spec of an object, and when."""
    return [
        {
            **{key: entry[key] for key in ("manager", "time") if key in entry},
            "fieldsV1": {"f:spec": {}},
        }
        for entry in managers
        if "f:spec" in (entry.get("fieldsV1") or {})
    ]


def news(body: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a trimmed object whose change is news for its job.

    The numbers and times in the status of a Job follow from its pods, which are watched, too.
    """
    if body["kind"] != "Job":
        return body
    return {**body, "status": (body.get("status") or {}).get("conditions") or None}


def _digests(configmap: Object) -> dict[str, str] | None:
    """Return the digests of a ConfigMap's values, None if only its metadata is known."""
    if DIGESTS in configmap:
        return dict(configmap[DIGESTS])
    if "data" not in configmap:
        return None
    return {key: text_digest(text) for key, text in (configmap["data"] or {}).items()}


def _selected(value: Any, fields: Any) -> Any:
    if fields is None:
        return value
    if isinstance(fields, list):
        return [_selected(element, fields[0]) for element in value or ()]
    if isinstance(value, Mapping):
        return {key: _selected(value[key], inner) for key, inner in fields.items() if key in value}
    return value


def _is_small(value: Any) -> bool:
    return len(encoded(value)) <= MAX_FIELD_BYTES
