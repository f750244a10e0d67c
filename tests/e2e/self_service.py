"""Self-service: what an administrator writes, the job of a team member, and what both can see."""

import json
import subprocess
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from tests.e2e.authors import AUTHOR
from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.target import Cluster, wants_gpu
from tests.support.local_cluster.tuning import DATASET, JOB, MODEL, SMALL, Tuning, label

PRICE, CURRENCY = "360.00", "EUR"
CATALOG, APPROVERS = "finetune-operator-catalog", "finetune-operator-approvers"
"""Cluster roles of the chart."""
IDLE_SECONDS = 20
READY_SECONDS, STOP_SECONDS, WAKE_SECONDS = 900.0, 300.0, 600.0


def profile(name: str, *, gpu_seconds: int, **limits: int) -> Object:
    """Return an offer for the smallest jobs, whose endpoints stop soon."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneProfile",
        "metadata": {"name": name},
        "spec": {
            "description": "Small models",
            "price": {"perGpuHour": PRICE, "currency": CURRENCY},
            "defaults": {
                **{name: SMALL[name] for name in ("training", "storage")},
                "dataset": {"format": "alpaca", "maxSamples": 16},
                "runPolicy": {"maxGpuSeconds": gpu_seconds},
                "serving": {"idle": {"afterSeconds": IDLE_SECONDS}},
            },
            "limits": {"maxIdleSeconds": 600, "maxGpuSeconds": gpu_seconds, **limits},
        },
    }


def budget(name: str, namespace: str, **spec: object) -> Object:
    """Return a budget of one namespace with one GPU for endpoints."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneBudget",
        "metadata": {"name": name},
        "spec": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "currency": CURRENCY,
            "serving": {"maxGpus": 1},
            **spec,
        },
    }


def binding_of(name: str, role: str, user: str) -> Object:
    """Return a ClusterRoleBinding."""
    rbac = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{rbac}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": rbac, "kind": "User", "name": user}],
    }


def right_to_use(*profiles: str) -> dict[str, Any]:
    """Return the rule with which a member may use profiles."""
    rule = {"apiGroups": ["finetune.dev"], "resources": ["finetuneprofiles"], "verbs": ["use"]}
    return {**rule, "resourceNames": profiles}


def attempt(
    cluster: Cluster, user: str, *words: str, stdin: Object | None = None
) -> subprocess.CompletedProcess[str]:
    """Run kubectl as a user; return the completed call."""
    text = None if stdin is None else json.dumps(stdin)
    return cluster.kubectl.attempt(*words, f"--as={user}", stdin=text)


def run(cluster: Cluster, user: str, *words: str, stdin: Object | None = None) -> str:
    """Run kubectl as a user; return what it prints."""
    done = attempt(cluster, user, *words, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


def three_lines(own: Tuning, offer: str, **spec: object) -> Object:
    """Return the job of a member: three lines, and further fields of its spec."""
    lines = {"profile": offer, "model": {"source": MODEL}, "dataset": {"source": DATASET}}
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": own.name, "namespace": own.namespace},
        "spec": {**lines, **spec},
    }


def apply(own: Tuning, offer: str, **spec: object) -> None:
    """Apply the job as the member."""
    run(own.cluster, AUTHOR, "apply", "-f", "-", stdin=three_lines(own, offer, **spec))


def wait_until_trained_at_a_known_price(own: Tuning, *, most: Decimal) -> None:
    """Wait until a job is trained, and check that its price was known before the GPU.

    most: the cost of the GPU time that the job may use.
    """
    own.wait_until("Trained", seconds=READY_SECONDS)
    record = own.cluster.record
    first = next(
        event.object
        for event in record.events("FineTuneJob", own.namespace)
        if event.key[1] == own.name
        and "expectedCost" in event.object.get("status", {}).get("cost", {})
    )
    (requested, *_) = (
        event.object
        for event in record.events("Pod", own.namespace, wants_gpu)
        if label(event.object, JOB) == own.name
    )
    assert _version(first) < _version(requested), "the price is known before a GPU is requested"
    priced = first["status"]["cost"]
    assert (priced["pricePerGpuHour"], priced["currency"]) == (PRICE, CURRENCY)
    low, high = (Decimal(priced["expectedCost"][name]) for name in ("low", "high"))
    assert 0 <= low <= high <= most


def wait_until_idle(own: Tuning) -> None:
    """Wait until a serving job that nobody uses holds no GPU."""
    own.wait_until("Ready", reason="Serving", seconds=READY_SECONDS)
    assert float(own.status()["cost"]["cost"]) > 0
    own.wait_until("Ready", reason="Idle", seconds=STOP_SECONDS)
    own.cluster.record.wait(
        "the serving pods are gone",
        lambda: (
            not own.cluster.record.present("Pod", own.namespace, lambda it: _holds_gpu(it, own))
        ),
        seconds=STOP_SECONDS,
    )
    serving = own.condition("Serving")
    assert serving is not None
    assert (serving["status"], serving["reason"]) == ("False", "Idle")


def wake(own: Tuning) -> None:
    """Wake an endpoint as the member, and check that its new pod has verified the same model."""
    before = own.status()
    # A time wakes the endpoint once it has come.
    moment = f"finetune.dev/wake={_later(before['serving']['idleSince'])}"
    place = f"--namespace={own.namespace}"
    run(own.cluster, AUTHOR, "annotate", "ftj", own.name, place, "--overwrite", moment)
    own.wait_until("Serving", seconds=WAKE_SECONDS)
    own.wait_until("Ready", reason="Serving", seconds=WAKE_SECONDS)
    served = own.wait(
        "the new pod has verified the model",
        lambda now: (
            now if now["verification"].get("pod") != before["verification"]["pod"] else None
        ),
        seconds=WAKE_SECONDS,
    )
    build = before["serving"]["build"]
    assert (served["serving"]["build"], served["verification"]["build"]) == (build, build)
    assert served["verification"]["outcome"] == before["verification"]["outcome"]
    # Training has recorded what the pods compare, although the small job learns little.
    assert served["verification"]["outcome"] in ("Verified", "Inconclusive")
    assert len(own.pods("serve")) == 2
    assert len(own.jobs("train")) == 1, "nothing is trained again"


def holds_gpu(pod: Object) -> bool:
    """Report whether a pod has a GPU. The train pod has ended and is kept."""
    return wants_gpu(pod) and pod["status"]["phase"] not in ("Succeeded", "Failed")


def _holds_gpu(pod: Object, own: Tuning) -> bool:
    return label(pod, JOB) == own.name and holds_gpu(pod)


def _version(item: Object) -> int:
    """Return the version of an object; those of one API server are in order."""
    return int(item["metadata"]["resourceVersion"])


def _later(time: str) -> str:
    """Return the next second, in the form of the API."""
    return (datetime.fromisoformat(time) + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
