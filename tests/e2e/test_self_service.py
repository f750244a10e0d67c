"""A member of a team, with rights on FineTuneJobs and one profile only, and an endpoint that idles.

Here is what needs pods: the price that the real prepare pod finds before a GPU is requested, and an
endpoint that goes to zero and returns verified. tests/integration/test_self_service.py has limits,
budgets and approvals. One small job does all of it, and fills the dashboard with the costs.
"""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from tests.e2e.authors import AUTHOR, admit, wait_for_right
from tests.e2e.prometheus import Prometheus, scraping
from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.target import Cluster, namespaces, wants_gpu
from tests.support.local_cluster.tuning import DATASET, MODEL, SMALL, Tuning

NAMESPACE, PROFILE, BUDGET = "e2e-self-service", "e2e-small", "e2e-team"
MEMBERS = "e2e-self-service-members"
IDLE_SECONDS = 20
READY_SECONDS, STOP_SECONDS, WAKE_SECONDS = 900.0, 300.0, 600.0
OFFER: Object = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneProfile",
    "metadata": {"name": PROFILE},
    "spec": {
        "description": "Small models",
        "price": {"perGpuHour": "360.00", "currency": "EUR"},
        "defaults": {
            **{name: SMALL[name] for name in ("training", "storage")},
            "dataset": {"format": "alpaca", "maxSamples": 16},
            "runPolicy": {"maxGpuSeconds": 1000},
            "serving": {"idle": {"afterSeconds": IDLE_SECONDS}},
        },
        "limits": {"maxIdleSeconds": 600, "maxGpuSeconds": 1000},
    },
}

LIMITS: Object = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneBudget",
    "metadata": {"name": BUDGET},
    "spec": {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}},
        "period": "Month",
        "currency": "EUR",
        "training": {"gpuHours": 10, "cost": "3600.00"},
        "serving": {"maxGpus": 1},
    },
}
"""Enough for the job."""


@pytest.fixture(scope="module")
def own(cluster: Cluster) -> Iterator[Tuning]:
    """The job of the member, three lines long."""
    rbac = "rbac.authorization.k8s.io"
    binding = {
        "apiVersion": f"{rbac}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": MEMBERS},
        "roleRef": {
            "apiGroup": rbac,
            "kind": "ClusterRole",
            "name": "finetune-operator-catalog",
        },
        "subjects": [{"apiGroup": rbac, "kind": "User", "name": AUTHOR}],
    }
    use = {"apiGroups": ["finetune.dev"], "resources": ["finetuneprofiles"], "verbs": ["use"]}
    with namespaces(cluster, NAMESPACE):
        admit(cluster, NAMESPACE, {**use, "resourceNames": [PROFILE]})
        cluster.kubectl.apply(OFFER, LIMITS, binding)
        wait_for_right(cluster, NAMESPACE, AUTHOR, "list", "finetuneprofiles.finetune.dev")
        try:
            yield Tuning(cluster=cluster, namespace=NAMESPACE, name="support")
        finally:
            cluster.kubectl.delete("ftp", PROFILE)
            cluster.kubectl.delete("ftb", BUDGET)
            cluster.kubectl.delete("clusterrolebinding", MEMBERS)


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster, own: Tuning) -> Iterator[Prometheus]:
    """It scrapes the operator, and the pods of the member's job."""
    with scraping(cluster, own.namespace) as running:
        yield running


def _member(own: Tuning, *words: str, stdin: str | None = None) -> str:
    """Run kubectl as the member."""
    place = (f"--as={AUTHOR}", f"--namespace={own.namespace}")
    return own.cluster.kubectl.run(*words, *place, stdin=stdin)


def _holds_gpu(pod: Object) -> bool:
    """Report whether a pod has a GPU. The train pod has ended and is kept."""
    return wants_gpu(pod) and pod["status"]["phase"] not in ("Succeeded", "Failed")


@pytest.mark.usefixtures("prometheus")
def test_a_member_applies_three_lines_and_sees_the_price_before_the_gpu(own: Tuning) -> None:
    (line,) = (each for each in _member(own, "get", "ftp").splitlines() if PROFILE in each)
    assert "360.00" in line
    spec = {"profile": PROFILE, "model": {"source": MODEL}, "dataset": {"source": DATASET}}
    job = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": own.name, "namespace": own.namespace},
        "spec": spec,
    }
    _member(own, "apply", "-f", "-", stdin=json.dumps(job))
    own.wait_until("Trained", seconds=READY_SECONDS)
    record = own.cluster.record
    first = next(
        event.object
        for event in record.events("FineTuneJob", own.namespace)
        if "expectedCost" in event.object.get("status", {}).get("cost", {})
    )
    (requested, *_) = (
        event.object for event in record.events("Pod", own.namespace) if wants_gpu(event.object)
    )
    assert _version(first) < _version(requested), "the price is known before a GPU is requested"
    priced = first["status"]["cost"]
    assert (priced["pricePerGpuHour"], priced["currency"]) == ("360.00", "EUR")
    # The limit of the profile bounds it: 1000 s.
    low, high = (Decimal(priced["expectedCost"][name]) for name in ("low", "high"))
    assert 0 <= low <= high <= 100
    assert own.status()["profile"] == PROFILE


def test_the_endpoint_goes_to_zero_without_requests(own: Tuning) -> None:
    own.wait_until("Ready", reason="Serving", seconds=READY_SECONDS)
    assert float(own.status()["cost"]["cost"]) > 0
    own.wait_until("Ready", reason="Idle", seconds=STOP_SECONDS)
    own.cluster.record.wait(
        "the serving pods are gone",
        lambda: not any(map(_holds_gpu, own.cluster.record.present("Pod", own.namespace))),
        seconds=STOP_SECONDS,
    )
    found = own.condition("Serving")
    assert found is not None
    assert (found["status"], found["reason"]) == ("False", "Idle")


def test_the_endpoint_returns_verified_when_the_member_wakes_it(own: Tuning) -> None:
    before = own.status()
    time = _member(own, "get", "ftj", own.name, "-o", "jsonpath={.status.serving.idleSince}")
    # A time wakes the endpoint once it has come.
    wake = f"finetune.dev/wake={_later(time)}"
    _member(own, "annotate", "ftj", own.name, "--overwrite", wake)
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


def test_every_panel_about_costs_has_data(prometheus: Prometheus, own: Tuning) -> None:
    choices = {"$namespace": own.namespace}
    assert prometheus.empty_panels("showback", choices) == []


def _version(item: Object) -> int:
    """Return the version of an object; those of one API server are in order."""
    return int(item["metadata"]["resourceVersion"])


def _later(time: str) -> str:
    """Return the next second, in the form of the API."""
    return (datetime.fromisoformat(time) + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
