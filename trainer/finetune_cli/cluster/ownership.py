"""Whether Argo CD, Flux or Helm owns an object: they undo a change that Git does not have. Pure."""

from collections.abc import Mapping
from typing import Any

ARGO_KEYS = ("argocd.argoproj.io/tracking-id", "argocd.argoproj.io/instance")
FLUX_KEYS = (
    "kustomize.toolkit.fluxcd.io/name",
    "helm.toolkit.fluxcd.io/name",
)
MANAGERS = {
    "argocd-controller": "Argo CD",
    "argocd-application-controller": "Argo CD",
    "kustomize-controller": "Flux",
    "helm-controller": "Flux",
}


def owner(object_: Mapping[str, Any]) -> str | None:
    """Return the name of the tool that applies an object from Git, None if there is none."""
    metadata = object_["metadata"]
    keys = {*(metadata.get("labels") or {}), *(metadata.get("annotations") or {})}
    if keys & set(ARGO_KEYS):
        return "Argo CD"
    if keys & set(FLUX_KEYS):
        return "Flux"
    for entry in metadata.get("managedFields") or ():
        if entry.get("subresource") is None and entry.get("manager") in MANAGERS:
            return MANAGERS[entry["manager"]]
    return None
