"""Cases of the plan's table: steps in a cluster, and the expected next plan.

Revisions and builds are numbered in the order of their appearance (``r1``, ``b2``); conditions have
a sign: ``+`` True, ``-`` False, ``?`` Unknown. A condition that is not listed must be absent;
Finished, which is always present, must be False.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.fakes.apiserver import Cluster, check_status, stored

from finetune_operator.actions import Action, Apply, Create, Delete, Patch, Scale
from finetune_operator.objects import naming
from finetune_operator.types import Plan

Step = Callable[[Cluster], object]
SIGNS = {"True": "+", "False": "-", "Unknown": "?"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """Steps, and the plan that must follow them."""

    given: tuple[Step, ...] = ()
    actions: tuple[str, ...] = ()
    ready: str
    """Status and reason of Ready, such as ``-Training``."""
    conditions: str
    """The other conditions, in their order."""
    says: str = ""
    """Part of Ready's message."""


def run_case(cluster: Cluster, case: Case) -> tuple[Plan, str]:
    """Run the steps and plan; return the plan and its text.

    Then execute plans until one changes nothing.
    """
    for step in case.given:
        step(cluster)
    planned = cluster.plan()
    check_status(stored(planned.status))
    cluster.remember(planned.status)
    lines = [shown(cluster, action) for action in planned.actions]
    found = {each["type"]: each for each in planned.status["conditions"]}
    ready = found.pop("Ready")
    if found["Finished"]["status"] == "False":
        del found["Finished"]
    cluster.settle()
    others = " ".join(f"{type_}{SIGNS[each['status']]}" for type_, each in found.items())
    return planned, "\n".join([*lines, f"{SIGNS[ready['status']]}{ready['reason']}", others])


def expected(case: Case) -> str:
    """Return the text that a case expects."""
    return "\n".join([*case.actions, case.ready, case.conditions])


def shown(cluster: Cluster, action: Action) -> str:
    """Return an action as one line of text."""
    thing: Any = action.object
    text = f"{type(action).__name__} {thing['kind']} {thing['metadata']['name']}"
    match action:
        case Apply() if thing["kind"] == "Service":
            text += f" -> {thing['spec']['selector'][naming.BUILD]}"
        case Apply() if thing["kind"] == "PersistentVolumeClaim":
            text += f" {thing['spec']['resources']['requests']['storage']}"
        case Delete():
            text += f" {action.propagation}"
        case Apply() if thing["kind"] == "Deployment" and thing["spec"]["replicas"] != 1:
            text += f" x{thing['spec']['replicas']}"
        case Scale():
            text += f" x{action.replicas}"
        case Patch():
            owned = bool(action.changes["metadata"]["ownerReferences"])
            text += " with owner" if owned else " without owner"
        case Create():
            pass
    for letter, known in (("r", cluster.revisions), ("b", cluster.builds)):
        for number, name in enumerate(known, 1):
            text = text.replace(name, f"{letter}{number}")
    return text
