"""A job in a namespace that denies all traffic; its NetworkPolicies allow its connections.

The job also starts without its Secret. The kubelet reports the missing Secret, and the test creates
it.
"""

from collections.abc import Iterator

import pytest
from tests.support.local_cluster import pods
from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.pods import Task
from tests.support.local_cluster.target import Cluster, namespaces
from tests.support.local_cluster.tuning import Tuning, condition, small

from finetune_api.contracts.ports import TRAINER_METRICS

NAMESPACE, OTHER = "e2e-closed", "e2e-outside"
STEPS = 2000
"""More steps than the test runs."""
ANSWER_SECONDS = 240.0
START_SECONDS = 900.0
TOKEN = "hf_demo"
DENY: Object = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "default-deny", "namespace": NAMESPACE},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
}


@pytest.fixture(scope="module")
def closed(cluster: Cluster) -> Iterator[Tuning]:
    """A job in the closed namespace without its Secret."""
    with namespaces(cluster, NAMESPACE, OTHER):
        cluster.kubectl.apply(DENY)
        tuning = Tuning(cluster=cluster, namespace=NAMESPACE, name="small")
        token = {"tokenSecretRef": {"name": "hf-token"}}
        tuning.apply(small(training={"maxSteps": STEPS}, model=token))
        yield tuning


def test_a_missing_secret_is_reported_by_name(closed: Tuning) -> None:
    # The kubelet reads the Secret only after it has pulled the image, which can take some time.
    closed.wait(
        "the kubelet reports the missing Secret",
        lambda _: _kubelet_waits(closed),
        seconds=START_SECONDS,
    )
    closed.wait("SecretMissing", _misses_its_secret, seconds=ANSWER_SECONDS)


def test_prepare_reaches_the_hub_and_progress_is_scraped(closed: Tuning) -> None:
    """The prepare pod reaches DNS and the hub, and the operator reaches the trainer's metrics."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "hf-token", "namespace": NAMESPACE},
        "stringData": {"token": TOKEN},
    }
    closed.cluster.kubectl.apply(secret)
    closed.wait("the job trains", _step, seconds=START_SECONDS)


def test_no_other_pod_reaches_the_metrics_of_the_trainer(closed: Tuning) -> None:
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
