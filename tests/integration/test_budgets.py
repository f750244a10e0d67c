"""Budgets with a real operator, Job controller and API server: waiting, starting, approving."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import kubelet
from tests.integration.test_operator_with_controllers import all_complete, run_stages
from tests.integration.test_usage import SHORT
from tests.support.api_server import operatorprocess
from tests.support.api_server.controlplane import ApiError, ControlPlane, wait_until
from tests.support.api_server.manifest_files import kubectl
from tests.support.api_server.namespace import Namespace, condition_of
from tests.support.api_server.operatorprocess import CONFIG, OperatorProcess
from tests.support.api_server.rbac import RBAC, may, wait_until_granted
from tests.support.helm import render

pytestmark = pytest.mark.usefixtures("controller_manager")

BUDGETS = "/apis/finetune.dev/v1alpha1/finetunebudgets"
HOUR = 3600
Thing = dict[str, Any]


@pytest.fixture(name="recording")
def _recording(control_plane: ControlPlane, tmp_path: Path) -> Iterator[OperatorProcess]:
    """Run an operator that records usage, and writes each change of a statement at once."""
    config = {**CONFIG, "usage": {"enabled": True}}
    with operatorprocess.operator(
        control_plane, tmp_path, config, prelude=f"{SHORT}delays.BUDGET = 1.0"
    ) as running:
        yield running


@pytest.fixture(name="limit")
def _limit(control_plane: ControlPlane, place: Namespace) -> Iterator[Callable[..., None]]:
    """Create or change the budget of the namespace."""
    path = f"{BUDGETS}/{place.name}"

    def limit(hours: float, **spec: Any) -> None:
        labels = {"kubernetes.io/metadata.name": place.name}
        values = {
            "namespaceSelector": {"matchLabels": labels},
            "period": "Month",
            "training": {"gpuHours": hours},
            **spec,
        }
        kind = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneBudget"}
        body = {**kind, "metadata": {"name": place.name}, "spec": values}
        control_plane.apply(path, body)

    yield limit
    control_plane.delete(path)


def submit(place: Namespace, name: str = "demo", hours: int = 2) -> None:
    place.submit(name, spec={"runPolicy": {"maxGpuSeconds": hours * HOUR}})


def wait_for(place: Namespace, reason: str, *names: str) -> None:
    """Complete the prepare pods until Ready of all jobs has a reason."""
    reported: set[str] = set()

    def reached() -> bool:
        for pod in place.items("pods"):
            uid, stage = pod["metadata"]["uid"], kubelet.stage_of(pod)
            if uid not in reported and stage == "prepare":
                reported.add(uid)
                kubelet.report(place, pod, all_complete(stage))
        return {place.reason(name) for name in names or ("demo",)} == {reason}

    wait_until(f"Ready of {names} has reason {reason}", reached)


def train_jobs(place: Namespace) -> list[str]:
    return [
        each["metadata"]["labels"]["finetune.dev/job"]
        for each in place.items("jobs")
        if each["metadata"]["labels"]["finetune.dev/stage"] == "train"
    ]


def statement(plane: ControlPlane, place: Namespace) -> Thing:
    return dict(plane.get(f"{BUDGETS}/{place.name}").get("status") or {})


def test_a_job_waits_until_its_budget_is_enlarged_and_the_next_until_the_first_is_deleted(
    control_plane: ControlPlane,
    place: Namespace,
    limit: Callable[..., None],
    recording: OperatorProcess,
) -> None:
    limit(1)
    submit(place)
    wait_for(place, "ExceedsBudget")
    assert train_jobs(place) == []
    assert "needs 2 GPU-hours" in place.condition("Ready")["message"]
    limit(3)
    wait_until("the job trains", lambda: train_jobs(place) == ["demo"])
    wait_until(
        "the statement has the reservation",
        lambda: (
            statement(control_plane, place).get("training", {}).get("gpuHours", {}).get("reserved")
            == "2"
        ),
    )
    submit(place, "second")
    wait_for(place, "OverBudget", "second")
    assert train_jobs(place) == ["demo"]
    assert place.job("second")["status"]["budget"]["gpuSeconds"] == 2 * HOUR
    waiting = f"{BUDGETS}/{place.name}"
    wait_until(
        "the statement counts the job that waits",
        lambda: control_plane.get(waiting)["status"]["training"]["waiting"] == 1,
    )
    head, line = kubectl(control_plane, "get", "ftb", place.name).stdout.splitlines()
    assert head.split() == [
        *("NAME", "PERIOD", "HOURS", "USED", "RESERVED", "LEFT", "COST", "SPENT", "COST-LEFT"),
        *("CURRENCY", "WAITING", "STATE"),
    ]
    assert line.split()[:1] + line.split()[-1:] == [place.name, "WithinBudget"]
    control_plane.delete(place.path("finetunejobs", "demo"))
    wait_until("the second job trains", lambda: "second" in train_jobs(place))


def test_a_job_waits_for_its_approval_which_its_author_cannot_write(
    control_plane: ControlPlane,
    place: Namespace,
    limit: Callable[..., None],
    recording: OperatorProcess,
) -> None:
    """Security: who may edit every object of a namespace can approve nothing."""
    limit(10, approvalAbove={"gpuHours": 1})
    submit(place)
    wait_for(place, "ApprovalNeeded")
    author = f"author-of-{place.name}"
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "author", "namespace": place.name},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "admin",
        },
        "subjects": [
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": author},
        ],
    }
    control_plane.post(f"{RBAC}/namespaces/{place.name}/rolebindings", binding)
    wait_until(
        "the author is an admin of the namespace",
        lambda: may(control_plane, author, "create", "", "configmaps", place.name),
    )
    for verb in ("create", "patch", "update", "delete"):
        for resource in ("finetunebudgets", "finetunebudgets/status", "finetuneusages"):
            assert not may(control_plane, author, verb, "finetune.dev", resource, ""), resource
    job = place.job()
    approval = {
        "namespace": place.name,
        "name": "demo",
        "uid": job["metadata"]["uid"],
        "revision": job["status"]["revisions"][0]["frozen"]["digest"],
        "maxGpuHours": 2,
    }
    limit(10, approvalAbove={"gpuHours": 1}, approvals=[approval])
    wait_until("the job trains", lambda: train_jobs(place) == ["demo"])


def test_an_exhausted_budget_with_checkpoint_stops_training_which_resumes(
    control_plane: ControlPlane,
    place: Namespace,
    limit: Callable[..., None],
    recording: OperatorProcess,
) -> None:
    limit(10, onExhausted={"training": "Checkpoint"})
    submit(place)
    run_stages(place, "Training", _running_when_training)
    # A budget of nothing is exhausted.
    limit(0, onExhausted={"training": "Checkpoint"})
    wait_until("training stops", lambda: place.reason() in ("OverBudget", "ExceedsBudget"))
    wait_until("its Job is deleted", lambda: train_jobs(place) == [])
    limit(10, onExhausted={"training": "Checkpoint"})
    wait_until("training resumes", lambda: train_jobs(place) == ["demo"])


def test_an_endpoint_waits_for_a_gpu_of_its_budget(
    control_plane: ControlPlane,
    place: Namespace,
    limit: Callable[..., None],
    recording: OperatorProcess,
) -> None:
    limit(10, serving={"maxGpus": 0})
    submit(place)
    run_stages(place, "ServingOverBudget", all_complete)
    assert place.items("deployments") == []
    limit(10, serving={"maxGpus": 1})
    wait_until("the endpoint has a pod", lambda: _replicas(place) == [1])
    wait_until(
        "the statement has its GPU",
        lambda: statement(control_plane, place).get("serving", {}).get("gpus") == 1,
    )
    # No further pods, and none are taken away.
    limit(10, serving={"gpuHours": 0}, onExhausted={"serving": "Keep"})
    found = f"{BUDGETS}/{place.name}"
    wait_until(
        "the budget of endpoints is exhausted",
        lambda: (
            condition_of(control_plane.get(found), "ServingExhausted").get("reason") == "Exhausted"
        ),
    )
    assert _replicas(place) == [1]
    limit(10, serving={"gpuHours": 0}, onExhausted={"serving": "ScaleToZero"})
    wait_until("the endpoint has no pod", lambda: _replicas(place) == [0])
    wait_until("the job says so", lambda: place.reason() == "ServingOverBudget")


def _replicas(place: Namespace) -> list[int]:
    return [each["spec"]["replicas"] for each in place.items("deployments")]


def _running_when_training(stage: str) -> Thing:
    return kubelet.running() if stage == "train" else all_complete(stage)


def test_the_operator_may_write_nothing_but_the_status_of_budgets(
    control_plane: ControlPlane,
) -> None:
    """Security: of the role in the chart."""
    rendered = render()
    roles = [
        each
        for each in rendered.objects
        if each["kind"] in ("ClusterRole", "ClusterRoleBinding")
        and each["metadata"]["name"] == "finetune-operator-budgets"
    ]
    for each in roles:
        control_plane.post(f"{RBAC}/{each['kind'].lower()}s", each)
    try:
        wait_until_granted(control_plane, roles)
        account = "system:serviceaccount:finetune-system:finetune-operator"
        for verb in ("create", "patch", "update", "delete"):
            assert not may(control_plane, account, verb, "finetune.dev", "finetunebudgets", "")
        assert may(control_plane, account, "update", "finetune.dev", "finetunebudgets/status", "")
    finally:
        for each in roles:
            path = f"{RBAC}/{each['kind'].lower()}s/{each['metadata']['name']}"
            control_plane.delete(path)


def approval(**bounds: Any) -> Thing:
    return {"namespace": "a", "name": "b", "uid": "c", "revision": "d" * 64, **bounds}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"training": {"cost": "5"}}, "set currency, such as EUR"),
        ({"training": {}, "serving": {"cost": "5"}}, "set currency, such as EUR"),
        ({"training": {}, "serving": {"maxGpus": -1}}, "greater than or equal to 0"),
        ({"training": {}, "onExhausted": {"serving": "Stop"}}, "Unsupported value"),
        ({"training": {"cost": "five"}, "currency": "EUR"}, "use a decimal number with at most 4"),
        ({"currency": "eur", "training": {}}, "use a currency code of three letters"),
        ({"period": "Year", "training": {}}, "Unsupported value"),
        ({"training": {"gpuHours": -1}}, "greater than or equal to 0"),
        (
            {"training": {}, "namespaceSelector": {"matchLabels": {"not a key": "x"}}},
            "matchLabels must hold valid labels",
        ),
        (
            {
                "training": {},
                "namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]},
            },
            "add at least one to values",
        ),
        (
            {
                "training": {},
                "approvals": [{"namespace": "a", "name": "b", "uid": "c", "revision": "9b0f"}],
            },
            "use the complete digest of 64 hex digits",
        ),
        (
            {"training": {}, "approvals": [approval()]},
            "set maxGpuHours, maxCost, or both",
        ),
        (
            {"training": {}, "approvals": [approval(maxGpuHours=1), approval(maxCost="5")]},
            "set currency, such as EUR, or use maxGpuHours",
        ),
    ],
)
def test_the_api_server_rejects_invalid_budgets(
    control_plane: ControlPlane, spec: Thing, message: str
) -> None:
    body = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneBudget",
        "metadata": {"name": "invalid"},
        "spec": {"namespaceSelector": {}, "period": "Month", **spec},
    }
    with pytest.raises(ApiError) as error:
        control_plane.post(BUDGETS, body)
    assert message in str(error.value)


def test_a_budget_without_records_of_usage_says_so_and_lets_no_job_train(
    control_plane: ControlPlane,
    place: Namespace,
    limit: Callable[..., None],
    operator: OperatorProcess,
) -> None:
    limit(10)
    submit(place)
    wait_for(place, "BudgetUnavailable")
    assert "usage.enabled" in place.condition("Ready")["message"]
    valid = condition_of(control_plane.get(f"{BUDGETS}/{place.name}"), "Valid")
    assert (valid["status"], valid["reason"]) == ("False", "UsageDisabled")
    assert train_jobs(place) == []
