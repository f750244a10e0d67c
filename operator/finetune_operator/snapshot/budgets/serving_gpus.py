"""The GPUs that the endpoints of jobs, and shared ones, have: kept up to date with the stores.

Budgets ask for them after each change of usage, and a budget may have a thousand jobs. So they are
counted when a version of an owner, or of its Deployments, is stored.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from finetune_operator.objects import conditions, endpoint_gpus
from finetune_operator.snapshot.store import Name, ObjectStore
from finetune_operator.types import Key, Object

Holder = tuple[str, str, str]
"""Kind, namespace and name of a FineTuneJob or a FineTuneEndpoint."""
DEPLOYMENT = "Deployment"


@dataclass(kw_only=True)
class _Pods:
    """What the GPUs of a holder follow from, in parts of objects."""

    owner: Object | None = None
    """None while it does not exist."""
    deployments: dict[Name, Object] = field(default_factory=dict)


class ServingGpus:
    """The GPUs of the owners in some stores."""

    def __init__(self, stores: Iterable[ObjectStore]) -> None:
        self._pods: dict[Holder, _Pods] = {}
        self._gpus: dict[str, dict[Holder, int]] = {}
        """Of the owners that exist, by namespace."""
        for store in stores:
            self._follow(store)

    def of(self, namespaces: Iterable[str]) -> Iterator[tuple[Holder, int]]:
        """Yield the owners in some namespaces, and their GPUs."""
        for namespace in namespaces:
            yield from self._gpus.get(namespace, {}).items()

    def namespaces(self) -> Iterable[str]:
        """Return the namespaces with owners."""
        return self._gpus.keys()

    def _follow(self, store: ObjectStore) -> None:
        kind, before, others = store.watches.own, store.on_own_change, store.on_child_change

        def take_owner(key: Key, owner: Object | None) -> None:
            before(key, owner)
            self._take_owner((kind, *key), owner)

        def take_child(key: Key, of_kind: str, name: Name, child: Object | None) -> None:
            others(key, of_kind, name, child)
            if of_kind == DEPLOYMENT:
                self._take_deployment((kind, *key), name, child)

        for key in store.own_keys():
            self._take_owner((kind, *key), store.owner(key))
        store.on_own_change, store.on_child_change = take_owner, take_child

    def _take_owner(self, holder: Holder, owner: Object | None) -> None:
        pods = self._pods.setdefault(holder, _Pods())
        pods.owner = None if owner is None else _part_of_owner(owner)
        self._count(holder)

    def _take_deployment(self, holder: Holder, name: Name, deployment: Object | None) -> None:
        pods = self._pods.setdefault(holder, _Pods())
        if deployment is None:
            pods.deployments.pop(name, None)
        else:
            pods.deployments[name] = _part_of_deployment(deployment)
        self._count(holder)

    def _count(self, holder: Holder) -> None:
        pods, namespace = self._pods[holder], holder[1]
        if pods.owner is None:
            owners = self._gpus.get(namespace, {})
            owners.pop(holder, None)
            if not owners:
                self._gpus.pop(namespace, None)
            if not pods.deployments:
                del self._pods[holder]
        else:
            gpus = endpoint_gpus.gpus(pods.owner, pods.deployments.values())
            self._gpus.setdefault(namespace, {})[holder] = gpus


def _part_of_owner(owner: Object) -> Object:
    metadata, serving = {"uid": owner["metadata"]["uid"]}, conditions.get(owner, "Serving")
    return {"metadata": metadata, "status": {"conditions": [serving] if serving else []}}


def _part_of_deployment(deployment: Object) -> Object:
    owners = deployment["metadata"].get("ownerReferences")
    return {
        "kind": deployment["kind"],
        "metadata": {"ownerReferences": owners},
        "spec": {"replicas": deployment["spec"].get("replicas")},
    }
