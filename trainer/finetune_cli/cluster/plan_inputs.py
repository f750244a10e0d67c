"""Objects with which a plan compares a manifest, as far as the user may read them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from finetune_api import PLURAL
from finetune_api.policy.readable_settings import NAME
from finetune_api.v1alpha1.budgets.spec import BUDGET_PLURAL
from finetune_api.v1alpha1.profile import PROFILE_PLURAL
from finetune_cli.cluster import api
from finetune_cli.cluster.api import Cluster, Forbidden, NotFound

Object = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PlanInputs:
    """Objects. None: they do not exist, or the user may not read them."""

    jobs: tuple[Object, ...]
    profiles: tuple[Object, ...] | None
    budgets: tuple[Object, ...] | None
    settings: Object | None
    """The ConfigMap with the settings of the operator."""


def read(cluster: Cluster, operator: str, jobs: Iterable[tuple[str, str]]) -> PlanInputs:
    """Return the objects. Raises CommandFailed.

    operator: namespace of the operator's settings. jobs: namespaces and names.
    """

    def readable(path: str) -> Object | None:
        try:
            return cluster.get(path)
        except (Forbidden, NotFound):
            return None

    def items(plural: str) -> tuple[Object, ...] | None:
        listing = readable(api.path(plural, api=api.JOBS))
        return None if listing is None else tuple(listing.get("items") or ())

    def job(namespace: str, name: str) -> Object | None:
        try:
            return cluster.get(api.path(PLURAL, namespace, name, api=api.JOBS))
        except NotFound as error:
            if "could not find the requested resource" in str(error):
                raise NotFound(api.NO_API) from None
            return None

    return PlanInputs(
        settings=readable(api.path("configmaps", operator, NAME)),
        jobs=tuple(manifest for place in jobs if (manifest := job(*place)) is not None),
        profiles=items(PROFILE_PLURAL),
        budgets=items(BUDGET_PLURAL),
    )
