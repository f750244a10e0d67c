"""The kinds of objects that the operator deals with, and where the API server keeps them."""

from dataclasses import dataclass
from urllib.parse import quote

from finetune_operator.types import Object


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of object and where the API server keeps it."""

    api_version: str
    plural: str
    kind: str = ""
    """What the API server calls it, where the table below calls it something else."""

    def path(self, namespace: str, name: str = "") -> str:
        """Return the path of one object, or of the namespace's collection."""
        root = "/apis/" if "/" in self.api_version else "/api/"
        path = f"{root}{self.api_version}/namespaces/{quote(namespace)}/{self.plural}"
        return f"{path}/{quote(name)}" if name else path


CORE_EVENT = "CoreEvent"
KINDS = {
    "FineTuneJob": Kind(api_version="finetune.dev/v1alpha1", plural="finetunejobs"),
    "ConfigMap": Kind(api_version="v1", plural="configmaps"),
    "PersistentVolumeClaim": Kind(api_version="v1", plural="persistentvolumeclaims"),
    "Pod": Kind(api_version="v1", plural="pods"),
    "Service": Kind(api_version="v1", plural="services"),
    "Job": Kind(api_version="batch/v1", plural="jobs"),
    "Deployment": Kind(api_version="apps/v1", plural="deployments"),
    "PodDisruptionBudget": Kind(api_version="policy/v1", plural="poddisruptionbudgets"),
    "NetworkPolicy": Kind(api_version="networking.k8s.io/v1", plural="networkpolicies"),
    "Lease": Kind(api_version="coordination.k8s.io/v1", plural="leases"),
    "Event": Kind(api_version="events.k8s.io/v1", plural="events"),
    # The same objects as they are read: roles for reading events commonly name the older group.
    CORE_EVENT: Kind(api_version="v1", plural="events", kind="Event"),
}


def path_of(body: Object) -> str:
    """Return the path of an object."""
    metadata = body["metadata"]
    return KINDS[body["kind"]].path(metadata["namespace"], metadata["name"])
