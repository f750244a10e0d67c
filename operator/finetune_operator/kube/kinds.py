"""The kinds of objects that the operator reads and writes, and their API paths."""

from dataclasses import dataclass
from urllib.parse import quote

import finetune_api
from finetune_operator.types import Object


@dataclass(frozen=True, kw_only=True)
class Kind:
    """API version and plural of a kind."""

    api_version: str
    plural: str
    kind: str = ""
    """Name of the kind in the API, if it differs from the key in ``KINDS``."""

    @property
    def resource(self) -> tuple[str, str, str]:
        """Group (empty for the core group), version and plural."""
        group, _, version = self.api_version.rpartition("/")
        return group, version, self.plural

    def path(self, namespace: str, name: str = "") -> str:
        """Return the path of one object, or of the collection of a namespace."""
        root = "/apis/" if "/" in self.api_version else "/api/"
        path = f"{root}{self.api_version}/namespaces/{quote(namespace)}/{self.plural}"
        return f"{path}/{quote(name)}" if name else path


FINETUNEJOB = finetune_api.KIND
CORE_EVENT = "CoreEvent"
KINDS = {
    FINETUNEJOB: Kind(api_version=finetune_api.API_VERSION, plural=finetune_api.PLURAL),
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
    # The same objects in the core group, which roles for reading events commonly name.
    CORE_EVENT: Kind(api_version="v1", plural="events", kind="Event"),
}


def path_of(body: Object) -> str:
    """Return the path of an object."""
    metadata = body["metadata"]
    return KINDS[body["kind"]].path(metadata["namespace"], metadata["name"])
