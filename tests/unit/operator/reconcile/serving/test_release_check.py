"""The check, from two pods alone, that a train pod can run on the node of a serving pod."""

from typing import Any

import pytest
from tests.fakes.apiserver import Thing
from tests.unit.operator.reconcile.serving.test_gpu_release import waiting

from finetune_operator.objects.index import index
from finetune_operator.reconcile.serving.handover import release_check
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import resolve_target

A10G, L4 = ({"nvidia.com/gpu.product": name} for name in ("NVIDIA-A10G", "NVIDIA-L4"))
TAINT = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
EVICTION = {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 300}


def term(**labels: str) -> Thing:
    expressions = [
        {"key": key, "operator": "In", "values": [value]} for key, value in labels.items()
    ]
    return {"matchExpressions": expressions}


def terms(*found: Thing) -> Thing:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [*found]}}
    return {"affinity": {"nodeAffinity": required}}


def other_pods(kind: str, strictness: str) -> Thing:
    return {"affinity": {kind: {f"{strictness}DuringSchedulingIgnoredDuringExecution": [{"a": 1}]}}}


ONE, TWO, THREE = (term(zone=zone) for zone in "abc")
SAME: Thing = {}
ALLOWED: dict[str, tuple[Thing, Thing]] = {
    "no requirements": ({}, {}),
    "equal selectors": ({"nodeSelector": A10G}, {"nodeSelector": A10G}),
    "fewer labels": ({"nodeSelector": A10G}, {"nodeSelector": {**A10G, "zone": "a"}}),
    "no selector": ({}, {"nodeSelector": A10G}),
    "equal terms": (terms(ONE, TWO), terms(TWO, ONE)),
    "more alternatives": (terms(ONE, TWO, THREE), terms(TWO)),
    "no terms": ({"affinity": {}}, terms(ONE)),
    "equal tolerations": ({"tolerations": [EVICTION, TAINT]}, {"tolerations": [TAINT, EVICTION]}),
    "more tolerations": ({"tolerations": [EVICTION, TAINT]}, {"tolerations": [EVICTION]}),
    "preferred pods": (other_pods("podAffinity", "preferred"), {}),
    "a soft spread": ({"topologySpreadConstraints": [{"whenUnsatisfiable": "ScheduleAnyway"}]}, {}),
}
NOT_KNOWN: dict[str, tuple[Thing, Thing]] = {
    "another label": ({"nodeSelector": L4}, {"nodeSelector": A10G}),
    "a label of a Kueue flavor": ({"nodeSelector": A10G}, {}),
    "fewer alternatives": (terms(ONE), terms(ONE, TWO)),
    "terms of the train pod only": (terms(ONE), {}),
    "fewer tolerations": ({"tolerations": [EVICTION]}, {"tolerations": [EVICTION, TAINT]}),
    "required pods": (other_pods("podAffinity", "required"), {}),
    "excluded pods": (other_pods("podAntiAffinity", "required"), {}),
    "a spread": ({"topologySpreadConstraints": [{"whenUnsatisfiable": "DoNotSchedule"}]}, {}),
}


def obstacle(asked: Thing, met: Thing) -> str | None:
    """Return the obstacle for a train pod next to a serving pod, each with more in its spec."""
    cluster = waiting()
    for pod in cluster.each("Pod"):
        changes: Any = {"train": asked, "serve": met}.get(
            pod["metadata"]["labels"]["finetune.dev/stage"], {}
        )
        pod["spec"] = {**pod["spec"], **changes}
    snapshot = cluster.observe()
    (waits,) = (pod for pod in snapshot.pods if pod["status"]["phase"] == "Pending")
    found = index(snapshot)
    ledger = Ledger.parse(found.previous.ledger, found.previous.ledger_version)
    target = resolve_target(snapshot.job, ledger, cluster.config)
    return release_check.obstacle(found, target, ledger, cluster.builds[0], waits)


@pytest.mark.parametrize("case", ALLOWED)
def test_every_node_of_the_serving_pod_accepts_the_train_pod(case: str) -> None:
    assert obstacle(*ALLOWED[case]) is None


@pytest.mark.parametrize("case", NOT_KNOWN)
def test_the_node_of_the_serving_pod_may_not_accept_the_train_pod(case: str) -> None:
    assert "The train pod might not be allowed on node node-1" in str(obstacle(*NOT_KNOWN[case]))
