"""Whether an existing object is the one that the operator would create or apply. Pure.

The API server adds values to an object: defaults, and the fields that a controller sets. An object
differs if one of the rendered values is another or missing, or if it has any value that neither
the operator nor the API server writes. A second container, for example, is such a value.
"""

from collections.abc import Mapping
from typing import Any

from finetune_api.quantity import amount
from finetune_operator.types import Object

Path = tuple[str, ...]
"""Names of the fields down to a value."""
TEMPLATE_ANNOTATIONS: Path = ("spec", "template", "metadata", "annotations")
TEMPLATE_LABELS: Path = ("spec", "template", "metadata", "labels")
ADDED: Mapping[str, tuple[Any, ...]] = {
    # Jobs
    "completionMode": ("NonIndexed",),
    "completions": (1,),
    "manualSelector": (False,),
    "parallelism": (1,),
    "suspend": (True, False),
    # Pods
    "apiVersion": ("v1",),
    "defaultMode": (0o644,),
    "dnsPolicy": ("ClusterFirst",),
    "failureThreshold": (3,),
    "periodSeconds": (10,),
    "protocol": ("TCP",),
    "schedulerName": ("default-scheduler",),
    "scheme": ("HTTP",),
    "successThreshold": (1,),
    "terminationMessagePath": ("/dev/termination-log",),
    "terminationMessagePolicy": ("File",),
    "timeoutSeconds": (1,),
    # Volumes
    "volumeMode": ("Filesystem",),
    # Deployments
    "paused": (False,),
    "restartPolicy": ("Always",),
    "revisionHistoryLimit": (10,),
    # Services
    "internalTrafficPolicy": ("Cluster",),
    "sessionAffinity": ("None",),
}
"""Fields that the API server adds, with the values that it writes."""
ASSIGNED = {"selector", "storageClassName", "volumeName"}
ASSIGNED |= {"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"}
"""Fields of the specs of Jobs, volumes and Services that the cluster assigns if they are not set.
"""
QUANTITIES = {"limits", "requests"}
"""Groups of quantities, which the API server writes in another form: 1Gi instead of 1024Mi."""
JOB_LABELS = ("batch.kubernetes.io/", "controller-uid", "job-name")
"""Beginnings of the labels that the API server adds to the pods of a Job."""


def same_content(desired: Object, existing: Object) -> bool:
    """Report whether ``existing`` is what the API server stores for ``desired``.

    Of the metadata, only the labels of ``desired`` count. ``status`` does not count.
    """
    labels = existing["metadata"].get("labels") or {}
    if not (desired["metadata"].get("labels") or {}).items() <= labels.items():
        return False
    return _same(_content(desired), _content(existing), path=())


def surplus(desired: Object, existing: Object) -> dict[str, Any]:
    """Return the merge patch that removes the values of other clients from spec or data, or {}.

    A server-side apply leaves all fields that it does not name. Annotations of a pod template stay:
    ``kubectl rollout restart`` sets one.
    """
    patch = {
        part: _surplus(desired[part], existing.get(part) or {}, path=(part,))
        for part in ("spec", "data")
        if part in desired
    }
    return {part: changes for part, changes in patch.items() if changes}


def _surplus(desired: Mapping[str, Any], existing: Mapping[str, Any], path: Path) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for key, present in existing.items():
        value = desired.get(key)
        if isinstance(value, Mapping) and isinstance(present, Mapping):
            if inner := _surplus(value, present, (*path, key)):
                changes[key] = inner
        elif key in desired:
            if not _same(value, present, path=(*path, key)):
                changes[key] = value
        elif (*path, key) != TEMPLATE_ANNOTATIONS and (
            path == TEMPLATE_LABELS or not _is_added(desired, key, present, path)
        ):
            changes[key] = None
    return changes


def _content(body: Object) -> dict[str, Any]:
    return {
        key: value
        for key, value in body.items()
        if key not in ("apiVersion", "kind", "metadata", "status")
    }


def _same(desired: Any, existing: Any, *, path: Path) -> bool:
    if isinstance(desired, Mapping) and isinstance(existing, Mapping):
        return all(
            _same(desired[key], existing.get(key), path=(*path, key))
            if key in desired
            else _is_added(desired, key, existing[key], path)
            for key in desired.keys() | existing.keys()
        )
    if isinstance(desired, (list, tuple)) and isinstance(existing, (list, tuple)):
        return len(desired) == len(existing) and all(
            _same(wanted, actual, path=path)
            for wanted, actual in zip(desired, existing, strict=True)
        )
    if _is_empty(desired) and _is_empty(existing):
        return True
    if QUANTITIES.intersection(path[-2:-1]):
        return amount(str(desired)) == amount(str(existing))
    return bool(desired == existing) and isinstance(desired, bool) == isinstance(existing, bool)


def _is_added(desired: Mapping[str, Any], key: str, value: Any, path: Path) -> bool:
    """Report whether the API server adds a field with this value to an object that lacks it."""
    if _is_empty(value):
        return True
    if path == ("spec",) and key in ASSIGNED:
        return True
    if path[-2:] == ("metadata", "labels"):
        return key.startswith(JOB_LABELS)
    if key == "serviceAccount":
        # The deprecated name of the same field.
        return bool(value == desired.get("serviceAccountName"))
    return any(value == added for added in ADDED.get(key, ()))


def _is_empty(value: Any) -> bool:
    return value is None or value == [] or value == {}


def without_empty(value: Any) -> Any:
    """Return a status without nulls and empty groups, which the API server may keep or drop.

    Its groups are dicts, as in JSON.
    """
    if isinstance(value, dict):
        kept = {}
        for key, inner in value.items():
            # Most values are no groups, and a call takes longer than the check.
            if isinstance(inner, (dict, list, tuple)):
                inner = without_empty(inner)
            if inner is not None and inner != {}:
                kept[key] = inner
        return kept
    if isinstance(value, (list, tuple)):
        return [without_empty(element) for element in value]
    return value
