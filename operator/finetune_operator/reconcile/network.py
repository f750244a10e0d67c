"""NetworkPolicies and ConfigMap of a revision that has started.

The policy of a pod is created in the plan that creates the first pod of its kind, before it.
"""

from collections.abc import Mapping, Set
from datetime import datetime
from typing import Any

from finetune_operator.actions import Action, Apply, Create
from finetune_operator.config import Settings
from finetune_operator.manifests.network_policies import render
from finetune_operator.objects import naming
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.reconcile import configuration
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object


def surroundings(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    config: Settings,
    now: datetime,
) -> tuple[Action, ...]:
    """Return the actions that create the NetworkPolicies and the ConfigMap of the revision.

    Once a revision has started, every reconcile checks them: without its ConfigMap no later pod
    could start.
    """
    replaced = configuration.deletion(snapshot, target, now)
    if not ledger.revision(target.revision).stages:
        return replaced
    policies = ensure_policies(
        snapshot.job, target, config, snapshot.own_policies, stages=ledger.started_stages()
    )
    return (*policies, *replaced, *configuration.creation(snapshot, target))


def ensure_policies(
    job: Object,
    target: TargetRevision,
    config: Settings,
    present: Mapping[str, Object],
    *,
    stages: Set[str],
) -> list[Action]:
    """Return the actions that create or correct the NetworkPolicies of stages.

    present: the job's own, by name.
    """
    actions: list[Action] = []
    for desired in render(job, target, config, stages):
        existing = present.get(desired["metadata"]["name"])
        if existing is None:
            actions.append(Create(object=desired))
        elif _filled(existing["spec"]) != _filled(desired["spec"]) or not naming.has_exact_owners(
            desired, existing
        ):
            actions.append(Apply(object=desired))
    return actions


def _filled(spec: Object) -> dict[str, Any]:
    """Return a spec without its empty lists, which the API server drops."""
    return {key: value for key, value in spec.items() if value != []}
