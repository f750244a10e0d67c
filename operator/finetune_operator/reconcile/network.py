"""NetworkPolicies and frozen configuration of a revision that has started."""

from collections.abc import Iterable
from typing import Any

from finetune_operator.config import OperatorConfig
from finetune_operator.manifests.network_policies import render
from finetune_operator.manifests.revision import configmap
from finetune_operator.objects import naming
from finetune_operator.reconcile import network
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Action, Apply, Create, Object, Snapshot


def ensure(
    job: Object, target: TargetRevision, config: OperatorConfig, present: Iterable[Object]
) -> list[Action]:
    """Return what makes the policies be there, and say what the spec says now."""
    known = {
        policy["metadata"]["name"]: policy for policy in present if naming.owned_by(job, policy)
    }
    actions: list[Action] = []
    for wanted in render(job, target, config):
        found = known.get(wanted["metadata"]["name"])
        if found is None:
            actions.append(Create(object=wanted))
        elif _filled(found["spec"]) != _filled(wanted["spec"]):
            actions.append(Apply(object=wanted))
    return actions


def _filled(spec: Object) -> dict[str, Any]:
    """Return a spec without its empty lists, which the API server does not keep."""
    return {key: value for key, value in spec.items() if value != []}


def _surroundings(
    snapshot: Snapshot, target: TargetRevision, ledger: Ledger, config: OperatorConfig
) -> list[Action]:
    """Create what every stage needs, once a revision has started: policies and configuration.

    They are looked for on every look, and not only when the revision starts: without its
    ConfigMap no later pod could be mounted, and an upgrade would look like an edit.
    """
    if not ledger.revision(target.revision).stages:
        return []
    wanted = network.ensure(snapshot.job, target, config, snapshot.networkpolicies)
    frozen = naming.revision_name(snapshot.job["metadata"]["name"], target.revision)
    if frozen not in _ours(snapshot, snapshot.configmaps):
        wanted.append(Create(object=configmap(snapshot.job, target)))
    return wanted


def _ours(snapshot: Snapshot, children: Iterable[Object]) -> set[str]:
    return {child["metadata"]["name"] for child in children if naming.owned_by(snapshot.job, child)}
