"""Which names an endpoint serves: laws of the signed list, and the states of its names."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.reconcile.endpoint_world import World
from tests.support.signing_keys import KEY

from finetune_gate.wanted import accepted


@pytest.fixture
def world() -> World:
    found = World()
    found.prepare()
    return found


def model(world: World, name: str, job: str) -> dict[str, Any]:
    return next(
        each for each in world.status["models"] if (each["name"], each["job"]) == (name, job)
    )


def wanted(world: World) -> list[tuple[str, str]]:
    found = world.wanted()
    assert found is not None
    return [(each.name, each.job) for each in found.names]


def document(world: World) -> bytes:
    text: str = world.find("ConfigMap", "shared-endpoint")["data"]["wanted.json"]
    return text.encode()


def test_the_gate_accepts_the_list(world: World) -> None:
    world.publish("a", "1", "acme/support", "support")
    world.step()
    key = serialization.load_pem_public_key(KEY.public_key)
    found = accepted(document(world), key, endpoint="uid-of-endpoint", last=None)  # type: ignore[arg-type]
    assert [each.name for each in found.names] == ["acme/support", "support"]
    assert found.sequence == world.status["wanted"]["sequence"]


def test_a_job_without_a_publication_has_no_name(world: World) -> None:
    world.publish("a")["status"] = {}
    world.step()
    assert wanted(world) == []


@pytest.mark.parametrize(
    "change",
    [
        {"endpointUID": "uid-of-an-earlier-endpoint"},
        {"path": f"jobs/uid-of-b/{'1' * 64}"},
        {"path": "../secrets"},
        {"adapter": "short"},
        {"names": ["a\nb"]},
    ],
)
def test_a_record_that_is_not_of_this_endpoint_and_job_has_no_name(
    world: World, change: dict[str, Any]
) -> None:
    world.publish("a")["status"]["sharedModel"] |= change
    world.step()
    assert wanted(world) == []


def test_a_job_that_leaves_answers_until_its_record_is_gone(world: World) -> None:
    """While its own build starts, the endpoint still serves its model."""
    job = world.publish("a")
    job["spec"]["serving"] = {"mode": "merged"}
    world.step()
    assert wanted(world) == [("a", "a")]
    del job["status"]["sharedModel"]
    world.step()
    assert wanted(world) == []


def test_a_deleted_job_has_no_name(world: World) -> None:
    world.publish("a")["metadata"]["deletionTimestamp"] = "2026-11-30T09:00:00Z"
    world.step()
    assert wanted(world) == []


def test_the_first_owner_keeps_a_name(world: World) -> None:
    world.publish("young", "1", "support")
    world.step()
    world.publish("old", "2", "support", age=9)
    world.step()
    assert wanted(world) == [("support", "young")]
    refused = model(world, "support", "old")
    assert refused["state"] == "NameConflict"
    assert "serving.servedModelNames" in refused["message"]
    del world.finetunejobs["young"]
    world.step()
    assert wanted(world) == [("support", "old")]


def test_a_name_of_a_base_belongs_to_no_job(world: World) -> None:
    """Nor does a job that has no other name take a place."""
    world.spec["lora"] = {"maxAdapters": 1}
    world.publish("demo-base", "1", "demo-base")
    world.publish("other", "2", "other", "other-base")
    world.step()
    assert wanted(world) == [("other", "other")]
    for name, job in (("demo-base", "demo-base"), ("other-base", "other")):
        refused = model(world, name, job)
        assert refused["state"] == "NameConflict"
        assert "ends in -base, which is reserved" in refused["message"]
        assert f"spec.serving.servedModelNames of FineTuneJob {job}" in refused["message"]


def test_a_job_keeps_a_reserved_name_that_it_had_before_an_upgrade(world: World) -> None:
    world.publish("demo", "1", "demo-base")
    world.step()
    (record,) = world.status["models"]
    assert record["state"] == "NameConflict"
    record["state"] = "Serving"
    world.step()
    assert wanted(world) == [("demo-base", "demo")]


def test_names_stay_reserved_while_jobs_publish_to_another_claim(world: World) -> None:
    world.publish("first", "1", "support")
    world.step()
    world.serve()
    world.objects["PersistentVolumeClaim", "shared-endpoint"]["metadata"]["uid"] = "another"
    for _ in range(2):
        world.step()
    assert model(world, "support", "first")["state"] == "Waiting"
    second = world.publish("second", "2", "support", age=9)
    second["status"]["sharedModel"]["volume"] = "another"
    world.step()
    assert model(world, "support", "second")["state"] == "NameConflict"
    world.finetunejobs["first"]["status"]["sharedModel"]["volume"] = "another"
    world.end_base()
    world.step()
    assert wanted(world) == [("support", "first")]


def test_of_two_new_jobs_the_older_one_gets_the_name(world: World) -> None:
    world.publish("a", "1", "support")
    world.publish("b", "2", "support", age=1)
    world.step()
    assert wanted(world) == [("support", "b")]


def test_a_full_endpoint_keeps_what_it_serves(world: World) -> None:
    world.spec["lora"] = {"maxAdapters": 2}
    world.publish("a", "1")
    world.publish("b", "2")
    world.step()
    world.publish("old", "3", age=9)
    world.step()
    assert wanted(world) == [("a", "a"), ("b", "b")]
    refused = model(world, "old", "old")
    assert refused["state"] == "EndpointFull"
    assert "2 places" in refused["message"]
    assert "spec.lora.maxAdapters" in refused["message"]
    assert (world.status["freeSlots"], world.status["summary"]) == (0, "0/3")
    world.publish("a", "4")
    world.step()
    assert wanted(world) == [("a", "a"), ("b", "b")], "another revision keeps the place of its job"
    del world.finetunejobs["b"]
    world.step()
    assert wanted(world) == [("a", "a"), ("old", "old")]


def test_names_of_one_adapter_need_one_place(world: World) -> None:
    world.spec["lora"] = {"maxAdapters": 1}
    world.publish("a", "1", "x", "y")
    world.step()
    assert wanted(world) == [("x", "a"), ("y", "a")]


def test_states_come_from_the_gate(world: World) -> None:
    world.publish("a", "1")
    world.publish("b", "2")
    world.step()
    assert model(world, "a", "a")["state"] == "Unknown"
    world.serve()
    world.report(b="Proving")
    world.step()
    assert (world.reason, world.status["summary"]) == ("Verifying", "1/2")
    served = model(world, "a", "a")
    assert served["answers"] == served["adapter"] == "1" * 64
    assert (served["distance"], served["tolerance"], served["boot"]) == (
        "0.01235",
        "0.05",
        "boot-1",
    )
    world.report(b="Failed")
    world.step()
    assert (world.condition("Ready")["status"], world.reason) == ("True", "Serving")
    assert "b of b (Failed)" in world.condition("Ready")["message"]


def test_a_report_about_an_earlier_adapter_is_not_about_this_one(world: World) -> None:
    world.publish("a", "1")
    world.step()
    world.serve()
    world.step()
    world.publish("a", "2")
    world.step()
    found = model(world, "a", "a")
    assert (found["state"], found["adapter"], found["answers"]) == ("Waiting", "2" * 64, "1" * 64)
    assert world.status["summary"] == "0/1"


def test_a_proof_of_an_earlier_boot_does_not_count(world: World) -> None:
    world.publish("a", "1")
    world.step()
    world.serve()
    assert world.gate is not None
    world.gate = world.gate.model_copy(update={"boot": "boot-2"})
    world.step()
    assert "answers" not in model(world, "a", "a")
    assert world.status["summary"] == "0/1"


def test_a_gate_with_a_later_list_gets_a_later_one(world: World) -> None:
    """The status was restored from a backup."""
    world.publish("a")
    world.step()
    world.serve()
    assert world.gate is not None
    before = world.status["wanted"]["sequence"]
    world.gate = world.gate.model_copy(update={"sequence": before + 1, "refused": "older"})
    world.now = world.now.replace(hour=20)
    world.step()
    assert world.status["wanted"]["sequence"] > before + 1
    after = world.status["wanted"]["sequence"]
    world.gate = world.gate.model_copy(update={"sequence": 2**60})
    world.step()
    assert world.status["wanted"]["sequence"] == after, "a gate does not choose the number"


NAMES = ("x", "y", "z")
EVENTS = st.one_of(
    st.tuples(
        st.just("publish"),
        st.sampled_from("abcd"),
        st.sampled_from("12345"),
        st.sampled_from(NAMES),
        st.integers(0, 3),
    ),
    st.tuples(st.just("delete"), st.sampled_from("abcd")),
    st.tuples(st.just("limit"), st.integers(1, 3)),
    st.tuples(st.just("report")),
    st.tuples(st.just("silence")),
    st.tuples(st.just("nothing")),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(EVENTS, max_size=12))
def test_laws_of_the_list(events: list[tuple[Any, ...]]) -> None:
    """The number never decreases, and the bytes change with the names alone."""
    world = World()
    world.prepare()
    for event in events:
        match event:
            case ("publish", job, adapter, name, age):
                world.publish(job, adapter, name, age=age)
            case ("delete", job):
                world.finetunejobs.pop(job, None)
            case ("limit", number):
                world.spec["lora"] = {"maxAdapters": number}
            case ("report",):
                world.serve()
            case ("silence",):
                world.gate = None
        before, bytes_before = world.wanted(), document(world)
        held = {each["name"]: each["job"] for each in world.status.get("models", ())}
        world.step()
        after = world.wanted()
        assert before is not None
        assert after is not None
        assert after.sequence >= before.sequence
        assert (after.names == before.names) == (document(world) == bytes_before)
        if after.names != before.names:
            assert after.sequence > before.sequence
        adapters = {each.adapter for each in after.names}
        assert len(adapters) <= world.spec.get("lora", {}).get("maxAdapters", 8)
        for each in after.names:
            record = world.finetunejobs[each.job]["status"]["sharedModel"]
            assert each.adapter == record["adapter"]
            assert each.name in record["names"]
            served = {(found.name, found.job) for found in before.names}
            owner = held.get(each.name)
            kept = owner in world.finetunejobs and (each.name, owner) in served
            if kept and world.finetunejobs[str(owner)]["status"]["sharedModel"]["names"] == [
                each.name
            ]:
                assert each.job == owner, "a name moves only if its owner gives it up"


def test_the_payload_is_signed_once_for_the_same_names(world: World) -> None:
    world.publish("a")
    world.step()
    first = document(world)
    world.step()
    assert document(world) == first
    assert json.loads(base64.b64decode(json.loads(first)["payload"]))["endpoint"] == (
        "uid-of-endpoint"
    )


def test_a_restart_of_the_operator_interrupts_no_model(world: World) -> None:
    world.publish("a", "1")
    world.publish("b", "2")
    world.step()
    world.serve()
    world.report(b="Failed")
    world.step()
    before = world.status
    world.gate, world.awaits_report = None, True
    world.step()
    assert world.status == before
    world.publish("a", "3")
    world.publish("c", "4")
    world.step()
    first, new = model(world, "a", "a"), model(world, "c", "c")
    assert (first["state"], first["answers"]) == ("Waiting", "1" * 64)
    assert (new["state"], "answers" in new) == ("Waiting", False)
    assert world.reason == "Verifying"
    assert world.deployment is not None
    world.deployment["status"]["availableReplicas"] = 0
    world.step()
    assert model(world, "a", "a")["state"] == "Unknown"


def test_states_without_a_report_do_not_last(world: World) -> None:
    world.publish("a")
    world.step()
    world.serve()
    world.step()
    world.gate = None
    world.step()
    assert model(world, "a", "a")["state"] == "Unknown"
    assert world.condition("Ready")["status"] == "False"
