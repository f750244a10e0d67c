"""A job in a namespace where nothing may talk to anything: its own policies open what it needs.

On the way the real kubelet misses a Secret, which is told and mended.
"""

from collections.abc import Iterator

import pytest
from tests.e2e import pods
from tests.e2e.kubectl import Object
from tests.e2e.pods import Task
from tests.e2e.target import Cluster, namespaces
from tests.e2e.tuning import Tuning, condition, small

from finetune_api.contracts.ports import TRAINER_METRICS

NAMESPACE, OTHER = "e2e-closed", "e2e-outside"
STEPS = 400
"""More than are ever done here."""
ANSWER_SECONDS = 30.0
START_SECONDS = 300.0
TOKEN = "hf_demo"
DENY: Object = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "default-deny", "namespace": NAMESPACE},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
}

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def closed(cluster: Cluster) -> Iterator[Tuning]:
    """A job in the closed namespace, whose Secret is missing."""
    with namespaces(cluster, NAMESPACE, OTHER):
        cluster.kubectl.apply(DENY)
        tuning = Tuning(cluster=cluster, namespace=NAMESPACE, name="small")
        token = {"tokenSecretRef": {"name": "hf-token"}}
        tuning.apply(small(training={"maxSteps": STEPS}, model=token))
        yield tuning


def test_a_missing_secret_is_named(closed: Tuning) -> None:
    # The kubelet looks for the Secret once it has the image, which may take its time.
    closed.wait(
        "the kubelet misses the Secret", lambda _: _kubelet_waits(closed), seconds=START_SECONDS
    )
    closed.wait("SecretMissing", _misses_its_secret, seconds=ANSWER_SECONDS)


def test_it_is_staged_and_its_progress_is_read(closed: Tuning) -> None:
    """Preparing reaches DNS and the hub, and the operator reaches the trainer's metrics."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "hf-token", "namespace": NAMESPACE},
        "stringData": {"token": TOKEN},
    }
    closed.cluster.kubectl.apply(secret)
    closed.wait("it trains", _step, seconds=START_SECONDS)


def test_nobody_else_reaches_the_trainers_metrics(closed: Tuning) -> None:
    (pod,) = closed.pods("train")
    address = f"{pod['status']['podIP']}:{TRAINER_METRICS}"
    task = Task(script="reach.py", image=closed.cluster.operator_image(), given=[address])
    assert pods.run(closed.cluster, OTHER, task)[address] != "connected"


def _kubelet_waits(closed: Tuning) -> bool:
    states = [
        container["state"]
        for pod in closed.pods("prepare")
        for container in pod["status"].get("containerStatuses", ())
    ]
    return any(
        state.get("waiting", {}).get("reason") == "CreateContainerConfigError" for state in states
    )


def _misses_its_secret(status: Object) -> bool:
    ready = condition(status, "Ready")
    return (
        ready is not None and ready["reason"] == "SecretMissing" and "hf-token" in ready["message"]
    )


def _step(status: Object) -> int | None:
    step: int | None = status.get("training", {}).get("globalStep")
    return step
