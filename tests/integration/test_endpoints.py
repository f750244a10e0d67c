"""FineTuneEndpoints with a real operator and API server, and a fake kubelet and gate."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import gate_server, kubelet
from tests.fakes.gate_server import FakeGate
from tests.support import signing_keys
from tests.support.api_server import operatorprocess
from tests.support.api_server.controlplane import ApiError, ControlPlane, wait_until
from tests.support.api_server.namespace import Namespace, condition_of
from tests.support.api_server.operatorprocess import CONFIG, OperatorProcess

from finetune_api import API_VERSION
from finetune_api.contracts.endpoint import WantedSet
from finetune_operator.objects import naming

pytestmark = pytest.mark.usefixtures("controller_manager")

Thing = dict[str, Any]
MODEL = {"source": "hf://acme/base", "revision": "main"}


@pytest.fixture(name="signing")
def _signing(control_plane: ControlPlane, tmp_path: Path) -> Iterator[OperatorProcess]:
    """Run an operator with a signing key, which records usage."""
    key = signing_keys.file(tmp_path)
    config = {**CONFIG, "signingKeyFile": str(key), "usage": {"enabled": True}}
    with operatorprocess.operator(control_plane, tmp_path, config) as running:
        yield running


@pytest.fixture(name="gate")
def _gate() -> Iterator[FakeGate]:
    with gate_server.serving() as found:
        yield found


def create(place: Namespace, name: str = "shared", **spec: Any) -> Thing:
    return place.plane.post(
        place.path("finetuneendpoints"),
        {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneEndpoint",
            "metadata": {"name": name},
            "spec": {"model": MODEL, **spec},
        },
    )


def endpoint(place: Namespace, name: str = "shared") -> Thing:
    return place.plane.get(place.path("finetuneendpoints", name))


def reason(place: Namespace) -> str:
    return str(condition_of(endpoint(place), "Ready").get("reason", ""))


def wanted(place: Namespace) -> WantedSet:
    """Return the list of names that the pod mounts."""
    found = place.plane.get(place.path("configmaps", "shared-endpoint"))
    payload = json.loads(found["data"]["wanted.json"])["payload"]
    return WantedSet.model_validate_json(base64.b64decode(payload), by_name=False)


def run_pods(place: Namespace, gate: FakeGate) -> None:
    """Complete the pod that prepares the base, and start the one that serves."""
    for pod in place.items("pods"):
        stage = kubelet.stage_of(pod)
        is_pending = pod.get("status", {}).get("phase") == "Pending"
        if not is_pending or naming.ENDPOINT not in pod["metadata"]["labels"]:
            continue
        if stage == "base":
            kubelet.report(place, pod, kubelet.completed(stage))
        elif stage == "serve-shared":
            gate.pod, gate.wanted = pod["metadata"]["uid"], wanted(place)
            kubelet.report(place, pod, kubelet.serving() | {"podIP": gate.address})


def until_serving(place: Namespace, gate: FakeGate) -> None:
    def served() -> bool:
        run_pods(place, gate)
        return reason(place) == "Serving"

    wait_until("the endpoint serves", served)


def test_life_of_an_endpoint(place: Namespace, signing: OperatorProcess, gate: FakeGate) -> None:
    create(place)
    until_serving(place, gate)
    status = endpoint(place)["status"]
    assert status["base"]["manifest"] == "a" * 64
    assert (status["summary"], status["freeSlots"], status["boot"]) == ("0/0", 8, "boot-1")
    assert status["endpoint"] == f"http://shared-endpoint.{place.name}.svc:8000/v1"
    assert wanted(place).sequence == status["wanted"]["sequence"]
    owners = {
        each["metadata"]["ownerReferences"][0]["kind"]
        for kind in ("persistentvolumeclaims", "services", "configmaps", "networkpolicies")
        for each in place.items(kind)
        if each["metadata"].get("labels", {}).get("finetune.dev/endpoint")
    }
    assert owners == {"FineTuneEndpoint"}
    place.plane.delete(place.path("finetuneendpoints", "shared"))
    kinds = ("services", "jobs", "deployments", "pods", "networkpolicies", "poddisruptionbudgets")
    wait_until("its objects are deleted", lambda: not any(map(place.items, kinds)))


@pytest.fixture(name="budget")
def _budget(control_plane: ControlPlane, place: Namespace) -> Iterator[str]:
    """Return the path of a budget that allows the endpoints of a namespace no GPU."""
    names = {"matchLabels": {"kubernetes.io/metadata.name": place.name}}
    spec = {
        "namespaceSelector": names,
        "period": "Month",
        "training": {},
        "serving": {"maxGpus": 0},
    }
    kind = {"apiVersion": API_VERSION, "kind": "FineTuneBudget"}
    path = f"/apis/{API_VERSION}/finetunebudgets"
    control_plane.post(path, {**kind, "metadata": {"name": place.name}, "spec": spec})
    yield f"{path}/{place.name}"
    control_plane.delete(f"{path}/{place.name}")


def test_an_endpoint_waits_for_a_gpu_of_its_budget(
    place: Namespace, signing: OperatorProcess, gate: FakeGate, budget: str
) -> None:
    def waits() -> bool:
        run_pods(place, gate)
        return reason(place) == "ServingOverBudget"

    def replicas() -> list[int]:
        return [deployment["spec"]["replicas"] for deployment in place.items("deployments")]

    create(place)
    wait_until("the base is prepared, and the pod waits", waits)
    # The status is written before the Deployment.
    wait_until("the Deployment has no pod", lambda: replicas() == [0])
    place.plane.merge(budget, {"spec": {"serving": {"maxGpus": 1}}})
    until_serving(place, gate)
    exhausted = {"serving": {"gpuHours": 0}, "onExhausted": {"serving": "ScaleToZero"}}
    place.plane.merge(budget, {"spec": exhausted})
    wait_until("its pod is stopped", lambda: replicas() == [0])
    wait_until("it says why", lambda: reason(place) == "ServingOverBudget")


def test_changes_by_others_are_corrected(
    place: Namespace, signing: OperatorProcess, gate: FakeGate
) -> None:
    create(place)
    until_serving(place, gate)
    before = wanted(place)
    path = place.path("configmaps", "shared-endpoint")
    place.plane.merge(path, {"data": {"wanted.json": "forged"}})
    wait_until(
        "the list is written again",
        lambda: place.plane.get(path)["data"]["wanted.json"] != "forged",
    )
    assert wanted(place) == before, "the same names have the same list"
    deployment = place.path("deployments", "shared-finetune-endpoint")
    place.plane.merge(deployment, {"spec": {"replicas": 0}})
    wait_until(
        "the pod is wanted again",
        lambda: place.plane.get(deployment)["spec"]["replicas"] == 1,
    )


def test_a_failed_base_says_why(place: Namespace, signing: OperatorProcess) -> None:
    create(place)

    def failed() -> bool:
        for pod in place.items("pods"):
            text = "hf://acme/base does not exist"
            status = kubelet.failed("base", code=66, reason="ModelNotFound", message=text)
            kubelet.report(place, pod, status)
        return reason(place) == "ModelNotFound"

    wait_until("the base has failed", failed)
    found = endpoint(place)
    assert condition_of(found, "Stalled")["status"] == "True"
    assert condition_of(found, "BaseReady")["status"] == "False"
    assert not place.items("deployments")


def test_an_operator_without_a_key_starts_nothing(
    place: Namespace, operator: OperatorProcess
) -> None:
    create(place)
    wait_until("the key is missing", lambda: reason(place) == "SigningKeyMissing")
    assert not place.items("jobs")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"model": {"source": "hf://acme/other", "revision": "main"}}, "spec.model cannot be"),
        ({"model": {"source": "hf://acme/base", "revision": "v2"}}, "spec.model cannot be"),
        ({"base": "original"}, "spec.base cannot be changed"),
        ({"storage": {"size": "1Gi"}}, "a volume cannot shrink"),
    ],
)
def test_the_base_cannot_be_changed(place: Namespace, spec: Thing, said: str) -> None:
    create(place, storage={"size": "2Gi"})
    path = place.path("finetuneendpoints", "shared")
    with pytest.raises(ApiError, match=said):
        place.plane.merge(path, {"spec": spec})
    place.plane.merge(path, {"spec": {"base": "dequantized"}})


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"lora": {"maxAdapters": 4, "maxActive": 5}}, "lora.maxActive exceeds lora.maxAdapters"),
        ({"lora": {"maxActive": 9}}, "lora.maxActive exceeds lora.maxAdapters"),
        ({"gpuMemoryUtilization": 1}, "gpuMemoryUtilization"),
        ({"toolCallParser": "--hermes"}, "the name of a parser of vLLM"),
        ({"model": {"source": "acme/base"}}, "write the model's source as hf://"),
        ({"storage": {"size": "0"}}, "storage.size must be greater than 0"),
        ({"access": {"allowedNamespaces": ["A"]}}, "as the name of a namespace"),
    ],
)
def test_invalid_endpoints_are_rejected(place: Namespace, spec: Thing, said: str) -> None:
    with pytest.raises(ApiError, match=said):
        create(place, **spec)


def test_long_names_are_rejected(place: Namespace) -> None:
    with pytest.raises(ApiError, match="at most 40"):
        create(place, "a" * 41)
