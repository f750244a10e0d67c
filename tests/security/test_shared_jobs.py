"""Attacks on the list of a shared endpoint: by tenants, by other jobs, and by the pods themselves.

test_shared_endpoint.py attacks the gate; the object policy is attacked in tests/integration.
"""

import json
from typing import Any

import pytest
from pydantic import ValidationError
from tests.fakes.apiserver import SPEC
from tests.support.reconcile.endpoint_world import World
from tests.support.signing_keys import new_key

from finetune_api.contracts.endpoint import PAYLOAD_TYPE, WantedSet, published_path
from finetune_api.contracts.provenance import attestation
from finetune_api.policy.limits import Limits
from finetune_api.v1alpha1.endpoints.spec import FineTuneEndpointSpec
from finetune_api.v1alpha1.spec import FineTuneJobSpec
from finetune_operator.actions import Create
from finetune_operator.objects import endpoints
from finetune_operator.snapshot.endpoints import AttachedJobs
from finetune_operator.snapshot.scraping.gates import Gate, parsed
from finetune_operator.snapshot.store import ObjectStore

pytestmark = pytest.mark.finding(20, "a shared endpoint answers with what nobody proved")
OTHER = "d" * 64


@pytest.fixture
def world() -> World:
    """An endpoint that serves the model of the job victim."""
    found = World()
    found.prepare()
    found.publish("victim", "1", "support")
    found.step()
    found.serve()
    found.step()
    return found


def listed(world: World) -> list[tuple[str, str, str]]:
    found = world.wanted()
    assert found is not None
    return [(each.name, each.job, each.adapter[0]) for each in found.names]


VICTIM = [("support", "victim", "1")]


# Other jobs of the namespace.


@pytest.mark.parametrize(
    "change",
    [
        {"path": published_path("uid-of-victim", "2" * 64)},
        {"path": "jobs/uid-of-attacker-2/x"},
        {"path": "prepared/base"},
        {"path": "jobs/uid-of-attacker/../uid-of-victim/x"},
        {"path": "/etc"},
        {"endpointUID": "another"},
        {"volume": "another"},
        {"volume": None},
        {"adapter": "latest"},
        {"names": []},
        {"names": ["../support"]},
        {"names": [f"n{number}" for number in range(9)]},
        {"revision": ""},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_record_of_another_folder_claim_or_form_gets_no_name(
    world: World, change: dict[str, Any]
) -> None:
    job = world.publish("attacker", "2", "other")
    job["status"]["sharedModel"] |= change
    world.step()
    assert listed(world) == VICTIM


@pytest.mark.parametrize("age", [0, 3650], ids=["younger", "older"])
def test_no_job_takes_a_name_from_another(world: World, age: int) -> None:
    world.publish("attacker", "2", "support", age=age)
    for _ in range(2):
        world.step()
    assert listed(world) == VICTIM


def test_no_job_takes_the_place_of_another(world: World) -> None:
    world.spec["lora"] = {"maxAdapters": 1}
    world.publish("attacker", "2", "other", age=3650)
    world.step()
    assert listed(world) == VICTIM


def test_a_job_of_the_same_name_inherits_no_adapter(world: World) -> None:
    """A user deletes the job of another one, and creates one of its name."""
    record = world.finetunejobs["victim"]["status"]
    job = world.publish("victim", "1", "support")
    job["metadata"]["uid"] = "uid-of-attacker"
    job["status"] = record
    world.step()
    assert listed(world) == []


def test_a_record_for_two_endpoints_gives_each_its_own(world: World) -> None:
    """The record of a former endpoint names no adapter of this one."""
    job = world.publish("attacker", "2", "other")
    job["status"]["formerModel"] = job["status"]["sharedModel"] | {"endpointUID": "another"}
    job["status"]["sharedModel"] = job["status"].pop("formerModel")
    world.step()
    assert listed(world) == VICTIM


# Other namespaces.


def test_a_job_of_another_namespace_reaches_no_endpoint(world: World) -> None:
    jobs = AttachedJobs(jobs=ObjectStore())
    job = world.publish("attacker", "2", "other")
    kind = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob"}
    metadata = {**job["metadata"], "namespace": "elsewhere", "resourceVersion": "1"}
    jobs.jobs.put({**kind, **job, "metadata": metadata})
    assert jobs.of(("team", "shared")) == ()
    assert len(jobs.of(("elsewhere", "shared"))) == 1


@pytest.mark.parametrize("name", ["team/shared", "../team/shared", "team:shared", "Shared", ""])
def test_a_reference_is_a_name_in_the_namespace_of_the_job(name: str) -> None:
    serving = {"mode": "shared", "endpointRef": {"name": name}}
    with pytest.raises(ValidationError):
        FineTuneJobSpec.model_validate({**SPEC, "serving": serving}, by_name=False)


def test_a_reference_has_no_namespace() -> None:
    serving = {"mode": "shared", "endpointRef": {"name": "shared", "namespace": "team"}}
    with pytest.raises(ValidationError):
        FineTuneJobSpec.model_validate({**SPEC, "serving": serving}, by_name=False)


# Editors of the namespace, who can write ConfigMaps, claims, Jobs and pods.


def forged(world: World, **changes: Any) -> str:
    """Return a list that another key has signed."""
    found = world.wanted()
    assert found is not None
    values = found.model_dump() | {"sequence": found.sequence + 1} | changes
    payload = WantedSet.model_validate(values).payload()
    signature = new_key().sign(attestation.signed_bytes(payload, kind=PAYLOAD_TYPE))
    return json.dumps(attestation.envelope(payload, signature, kind=PAYLOAD_TYPE))


def test_the_list_in_an_edited_configmap_is_replaced(world: World) -> None:
    configmap = world.find("ConfigMap", "shared-endpoint")
    before = configmap["data"]["wanted.json"]
    configmap["data"]["wanted.json"] = forged(world, names=())
    world.step()
    assert world.find("ConfigMap", "shared-endpoint")["data"]["wanted.json"] == before


@pytest.mark.parametrize("stop", ["NotAllowed", "InvalidSpec"])
def test_a_forged_list_is_not_signed_while_the_endpoint_is_stopped(world: World, stop: str) -> None:
    """Names are then removed from the list in the ConfigMap, which editors can write."""
    configmap = world.find("ConfigMap", "shared-endpoint")
    names = [each.model_dump() | {"adapter": OTHER} for each in world.wanted().names]  # type: ignore[union-attr]
    configmap["data"]["wanted.json"] = forged(world, names=names)
    if stop == "InvalidSpec":
        world.spec["lora"] = {"maxRank": -1}
    else:
        world.settings = replace_policy(world, {"sources": {"allow": ["s3://"]}})
    world.finetunejobs.clear()
    plan = world.step()
    assert world.reason == stop
    assert not [each for each in plan.actions if each.object["kind"] == "ConfigMap"]


def replace_policy(world: World, limits: dict[str, Any]) -> Any:
    return world.settings.model_copy(update={"policy": Limits.model_validate(limits)})


@pytest.mark.parametrize("seconds", [1, 10**9])
def test_a_number_from_the_future_raises_no_number(world: World, seconds: int) -> None:
    """A pod could else make the operator use up the numbers, or skip a list that was replayed."""
    before = world.status["wanted"]
    assert world.gate is not None
    world.gate = world.gate.model_copy(
        update={"sequence": int(world.now.timestamp()) + 60 + seconds}
    )
    world.step()
    assert world.status["wanted"] == before


def test_a_foreign_claim_is_not_the_volume_of_the_endpoint() -> None:
    world = World()
    claim = {
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "shared-endpoint", "uid": "planted", "labels": {}},
        "spec": {"resources": {"requests": {"storage": "1Gi"}}},
    }
    world.objects["PersistentVolumeClaim", "shared-endpoint"] = claim
    world.publish("attacker", "2", "other")["status"]["sharedModel"]["volume"] = "planted"
    plan = world.plan()
    assert plan.status.get("volume") != "planted"
    assert {each.object["kind"] for each in plan.actions if isinstance(each, Create)} == {
        "PersistentVolumeClaim",
        "Job",
    }, "its creation conflicts with the planted one, and is reported"


def test_a_foreign_job_prepares_no_base() -> None:
    world = World()
    world.step()
    world.end_base(artifacts={"manifest": OTHER})
    name = endpoints.base_job_name("shared", 1)
    world.find("Job", name)["metadata"]["ownerReferences"] = []
    plan = world.plan()
    assert "base" not in plan.status
    assert plan.status["baseAttempt"]["outcome"] == "Running"


# The pods of the endpoint.


@pytest.mark.parametrize(
    "change",
    [
        {"name": "admin"},
        {"job": "attacker"},
        {"adapter": OTHER, "answers": OTHER},
        {"answers": OTHER},
        {"boot": "boot-0"},
        {"boot": None},
        {"answers": None},
    ],
    ids=lambda change: "-".join(change),
)
def test_a_report_about_something_else_makes_no_name_serve(
    world: World, change: dict[str, Any]
) -> None:
    assert world.gate is not None
    (name,) = world.gate.names
    world.gate = world.gate.model_copy(update={"names": (name.model_copy(update=change),)})
    world.step()
    (model,) = world.status["models"]
    assert (model["name"], model["job"], model["adapter"][0]) == ("support", "victim", "1")
    serves = model["state"] == "Serving" and model.get("answers") == model["adapter"]
    assert not serves
    assert world.status["summary"] == "0/1"


def test_a_report_cannot_change_the_status_of_the_terminal(world: World) -> None:
    assert world.gate is not None
    (name,) = world.gate.names
    hostile = "\x1b[2J\u202e" + "x" * 10_000
    failed = {"state": "Failed", "message": hostile, "answers": None}
    world.gate = world.gate.model_copy(
        update={
            "names": (name.model_copy(update=failed),),
            "refused": hostile,
            "self_test": hostile,
        }
    )
    world.step()
    (model,) = world.status["models"]
    texts = [
        model["message"],
        world.status["selfTest"],
        *(each["message"] for each in world.status["conditions"]),
    ]
    assert all(text.isprintable() and len(text) <= 4096 for text in texts)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("boot", "\x1b[2J"),
        ("boot", "x" * 1000),
        ("boot", ""),
        ("answers", "x" * 1000),
        ("answers", "a b"),
        ("differentBlocks", -1),
        ("differentBlocks", 1 << 64),
        ("state", "Verified"),
        ("outcome", "Certified"),
    ],
)
def test_a_report_with_values_that_the_status_cannot_hold_does_not_count(
    world: World, field: str, value: Any
) -> None:
    assert world.gate is not None
    gate = Gate(endpoint=world.gate.endpoint, pod=world.gate.pod, address="10.0.0.9")
    report = world.gate.model_dump(mode="json", by_alias=True)
    assert parsed(json.dumps(report).encode(), gate) == world.gate
    report["names"][0][field] = value
    assert parsed(json.dumps(report).encode(), gate) is None


# The policy of the administrator.


@pytest.mark.parametrize(
    ("spec", "limits"),
    [
        ({"model": {"source": "hf://evil/base"}}, {"sources": {"allow": ["hf://acme/"]}}),
        (
            {"model": {"source": "hf://acme/base", "tokenSecretRef": {"name": "of-admins"}}},
            {"secrets": {"allow": ["hf-token"]}},
        ),
        ({"placement": {"nodeSelector": {"pool": "large"}}}, {"nodeSelectors": {"allow": []}}),
        ({"placement": {"tolerations": [{"operator": "Exists"}]}}, {"tolerations": {"allow": []}}),
    ],
    ids=["source", "secret", "node selector", "tolerations"],
)
def test_an_endpoint_is_no_way_around_the_policy(
    spec: dict[str, Any], limits: dict[str, Any]
) -> None:
    world = World()
    world.settings = replace_policy(world, limits)
    world.endpoint["spec"] |= spec
    FineTuneEndpointSpec.model_validate(world.endpoint["spec"], by_name=False)
    plan = world.plan()
    assert plan.status["conditions"][0]["reason"] == "NotAllowed"
    assert plan.actions == ()


def test_no_credentials_are_in_the_serving_pod(world: World) -> None:
    world.spec["model"]["tokenSecretRef"] = {"name": "hf-token"}
    world.step()
    assert world.deployment is not None
    text = json.dumps(world.deployment["spec"]["template"])
    assert "hf-token" not in text
    pod = world.deployment["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert not [each for each in pod["volumes"] if "secret" in each]


def test_the_pod_with_credentials_sees_no_adapter(world: World) -> None:
    (job,) = [each for (kind, _), each in world.objects.items() if kind == "Job"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    mounts = [each for each in container["volumeMounts"] if each["name"] == "work"]
    assert [each["subPath"] for each in mounts] == ["prepared"]
