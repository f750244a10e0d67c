"""Objects of the whole cluster that concern users of jobs: profiles, budgets and usage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.v1alpha1.budgets.spec import BUDGET_PLURAL
from finetune_api.v1alpha1.budgets.usage import USAGE_PLURAL
from finetune_api.v1alpha1.profile import PROFILE_PLURAL
from finetune_cli.cluster import api
from finetune_cli.cluster.api import Cluster, NotFound
from finetune_cli.ui.reading import rights
from finetune_cli.ui.reading.rights import Part

MOST = 500
Objects = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Money:
    """Budgets, and the usage of namespaces by month."""

    budgets: Part[Objects]
    usages: Part[Objects]


def profiles(cluster: Cluster) -> Part[Objects]:
    """Return the profiles."""
    return rights.part(lambda: _all(cluster, PROFILE_PLURAL))


def money(cluster: Cluster) -> Money:
    """Return budgets and usage, the latest month first."""
    budgets, usages = rights.at_once(
        lambda: rights.part(lambda: _all(cluster, BUDGET_PLURAL)),
        lambda: rights.part(lambda: _all(cluster, USAGE_PLURAL)),
    )
    return Money(budgets=budgets, usages=usages)


def _all(cluster: Cluster, plural: str) -> list[dict[str, Any]]:
    with rights.needs("list", rights.own(plural), None):
        try:
            return cluster.items(api.path(plural, api=api.JOBS), limit=MOST)
        except NotFound:
            raise NotFound(
                f"The cluster has no {rights.own(plural)}: its operator is of an older version."
            ) from None
