"""The kinds of objects that the operator reads and writes, and their API paths."""

from dataclasses import dataclass
from urllib.parse import quote

import finetune_api
from finetune_api.crd.resources import RESOURCES
from finetune_api.v1alpha1.budgets.spec import BUDGET_KIND
from finetune_api.v1alpha1.budgets.usage import USAGE_KIND
from finetune_api.v1alpha1.endpoints.spec import ENDPOINT_KIND
from finetune_api.v1alpha1.profile import PROFILE_KIND
from finetune_operator.types import Object


@dataclass(frozen=True, kw_only=True)
class Kind:
    """API version, plural and scope of a kind."""

    api_version: str
    plural: str
    namespaced: bool = True
    kind: str = ""
    """Name of the kind in the API, if it differs from the key in ``KINDS``."""

    @property
    def resource(self) -> tuple[str, str, str]:
        """Group (empty for the core group), version and plural."""
        group, _, version = self.api_version.rpartition("/")
        return group, version, self.plural

    def path(self, namespace: str = "", name: str = "") -> str:
        """Return the path of one object, or of a collection: of a namespace, or of all of them."""
        root = "/apis/" if "/" in self.api_version else "/api/"
        place = f"namespaces/{quote(namespace)}/" if self.namespaced and namespace else ""
        path = f"{root}{self.api_version}/{place}{self.plural}"
        return f"{path}/{quote(name)}" if name else path


OWN_KINDS = {
    resource.kind: Kind(
        api_version=finetune_api.API_VERSION,
        plural=resource.plural,
        namespaced=resource.scope == "Namespaced",
    )
    for resource in RESOURCES
}
"""The kinds that the project defines."""
FINETUNEJOB = finetune_api.KIND
FINETUNEPROFILE = PROFILE_KIND
FINETUNEBUDGET = BUDGET_KIND
FINETUNEUSAGE = USAGE_KIND
FINETUNEENDPOINT = ENDPOINT_KIND
CORE_EVENT = "CoreEvent"
KUEUE = "kueue.x-k8s.io/v1beta2"
KINDS = {
    **OWN_KINDS,
    "ConfigMap": Kind(api_version="v1", plural="configmaps"),
    "PersistentVolumeClaim": Kind(api_version="v1", plural="persistentvolumeclaims"),
    "Pod": Kind(api_version="v1", plural="pods"),
    "Service": Kind(api_version="v1", plural="services"),
    "Job": Kind(api_version="batch/v1", plural="jobs"),
    "Deployment": Kind(api_version="apps/v1", plural="deployments"),
    "PodDisruptionBudget": Kind(api_version="policy/v1", plural="poddisruptionbudgets"),
    "NetworkPolicy": Kind(api_version="networking.k8s.io/v1", plural="networkpolicies"),
    "Namespace": Kind(api_version="v1", plural="namespaces", namespaced=False),
    "PriorityClass": Kind(
        api_version="scheduling.k8s.io/v1", plural="priorityclasses", namespaced=False
    ),
    "Lease": Kind(api_version="coordination.k8s.io/v1", plural="leases"),
    "Event": Kind(api_version="events.k8s.io/v1", plural="events"),
    # Kueue; only with the chart value kueue.enabled.
    "LocalQueue": Kind(api_version=KUEUE, plural="localqueues"),
    "ClusterQueue": Kind(api_version=KUEUE, plural="clusterqueues", namespaced=False),
    "ResourceFlavor": Kind(api_version=KUEUE, plural="resourceflavors", namespaced=False),
    "Workload": Kind(api_version=KUEUE, plural="workloads"),
    # The same objects in the core group, which roles for reading events commonly name.
    CORE_EVENT: Kind(api_version="v1", plural="events", kind="Event"),
}


def path_of(body: Object) -> str:
    """Return the path of an object."""
    metadata = body["metadata"]
    return KINDS[body["kind"]].path(metadata.get("namespace", ""), metadata["name"])
