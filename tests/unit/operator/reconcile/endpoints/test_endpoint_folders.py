"""The folders of jobs on the claim of an endpoint: only those of deleted jobs are removed."""

import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.reconcile.endpoint_world import SETTINGS, World

from finetune_api.policy.limits import Limits
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.actions import Delete
from finetune_operator.objects import naming
from finetune_operator.reconcile.endpoints import plan as planner

CLAIM = ("PersistentVolumeClaim", "shared-endpoint")


def serving(*jobs: str) -> World:
    """Return an endpoint that serves the models of some jobs."""
    world = World()
    for number, name in enumerate(jobs):
        world.publish(name, str(number))
    world.prepare()
    world.serve()
    world.step()
    return world


def accept(world: World) -> None:
    """Let the endpoint plan, and its gate accept the list."""
    world.step()
    world.report()
    world.step()


def listed(world: World) -> list[str]:
    return [each["job"] for each in world.folders]


def removes(world: World) -> list[str]:
    """Return the folders that the Jobs of the endpoint remove."""
    return [
        str(each["spec"]["template"]["spec"]["containers"][0]["command"][-1])
        for each in world.jobs_of("prune")
    ]


def end(world: World, type_: str = "Complete") -> None:
    """Let the newest Job end."""
    conditions = [{"type": type_, "status": "True"}]
    world.jobs_of("prune")[-1]["status"] = {"conditions": conditions}


def test_a_folder_is_listed_before_the_job_publishes() -> None:
    world = World()
    world.publish("a")["status"] = {}
    world.step()
    assert world.folders == [{"job": "a", "uid": "uid-of-a"}]


def test_the_folder_of_a_deleted_job_is_removed() -> None:
    world = serving("a", "b")
    objects = {**world.objects}
    del world.finetunejobs["b"]
    world.step()
    assert not removes(world), "the gate has not accepted the list without the name"
    world.report()
    world.step()
    assert removes(world) == ["/jobs/uid-of-b"]
    assert listed(world) == ["a", "b"]
    world.step()
    assert len(world.jobs_of("prune")) == 1
    end(world)
    world.step()
    assert (listed(world), removes(world)) == (["a"], [])
    plan = world.step()
    assert world.objects.keys() - objects.keys() == {("NetworkPolicy", "shared-endpoint-prune")}
    assert world.step() == plan, "nothing more happens"


def test_a_job_with_the_name_of_a_deleted_one_has_a_folder_of_its_own() -> None:
    world = serving("a")
    again = world.publish("a", "2")
    again["metadata"]["uid"] = "uid-of-the-second-a"
    again["status"]["sharedModel"]["path"] = "jobs/uid-of-the-second-a/" + "2" * 64
    accept(world)
    assert removes(world) == ["/jobs/uid-of-a"]
    end(world)
    world.step()
    assert world.folders == [{"job": "a", "uid": "uid-of-the-second-a"}]
    accept(world)
    assert not removes(world)


def moved_away(world: World) -> None:
    del world.finetunejobs["b"]
    world.others = {"uid-of-b"}


def being_deleted(world: World) -> None:
    world.finetunejobs["b"]["metadata"]["deletionTimestamp"] = "2026-11-30T09:00:00Z"


def refused(world: World) -> None:
    world.spec["lora"] = {"maxAdapters": 1}


@pytest.mark.parametrize("change", [moved_away, being_deleted, refused])
def test_the_folder_of_a_job_that_exists_is_never_removed(change: Callable[[World], None]) -> None:
    world = serving("a", "b")
    change(world)
    for _ in range(3):
        accept(world)
    assert (listed(world), removes(world)) == (["a", "b"], [])


def without_pod(world: World) -> None:
    assert world.deployment is not None
    world.deployment["status"] = {"observedGeneration": 1, "availableReplicas": 0}


def without_report(world: World) -> None:
    world.gate = None


def not_allowed(world: World) -> None:
    limits = Limits.model_validate({"sources": {"allow": ["hf://other/*"]}})
    world.settings = SETTINGS.model_copy(update={"policy": limits})


@pytest.mark.parametrize("change", [without_pod, without_report, not_allowed])
def test_nothing_is_removed_before_the_endpoint_serves(change: Callable[[World], None]) -> None:
    world = serving("a", "b")
    del world.finetunejobs["b"]
    world.step()
    world.report()
    change(world)
    world.step()
    assert not removes(world)
    assert "b" in listed(world)


def test_one_folder_is_removed_at_a_time() -> None:
    world = serving("a", "b", "c")
    world.finetunejobs.clear()
    accept(world)
    for name in "abc":
        assert removes(world) == [f"/jobs/uid-of-{name}"]
        end(world)
        world.step()
        world.step()
    assert (listed(world), removes(world)) == ([], [])


def test_a_job_is_deleted_before_the_next_one_is_created() -> None:
    """A quota that allows one Job rejects the next one while the completed one exists."""
    world = serving("a", "b")
    world.finetunejobs.clear()
    accept(world)
    end(world)
    plan = world.step()
    written = [action for action in plan.actions if action.object["kind"] == "Job"]
    assert [type(action) for action in written] == [Delete]
    world.step()
    assert removes(world) == ["/jobs/uid-of-b"]


def test_a_folder_that_cannot_be_removed_stops_no_other_one() -> None:
    world = serving("a", "b")
    world.finetunejobs.clear()
    accept(world)
    end(world, "Failed")
    world.step()
    (failed, _) = world.jobs_of("prune")
    name = failed["metadata"]["name"]
    message = world.condition("Ready")["message"]
    assert f"deleted FineTuneJob a is still on the volume, because Job {name} failed" in message
    assert (world.reason, world.condition("Ready")["status"]) == ("Serving", "True")
    end(world)
    world.step()
    assert (listed(world), removes(world)) == (["a"], ["/jobs/uid-of-a"])
    del world.objects["Job", name]
    world.step()
    assert removes(world) == ["/jobs/uid-of-a"], "it is tried again"
    end(world)
    world.step()
    assert not listed(world)
    assert "Job" not in world.condition("Ready")["message"].replace("FineTuneJob", "")


def test_failed_jobs_are_few() -> None:
    world = serving(*"abcdefgh")
    world.finetunejobs.clear()
    accept(world)
    for _ in range(20):
        end(world, "Failed")
        world.step()
    assert [path[-1] for path in removes(world)] == [*"abcde"]
    del world.objects["Job", world.jobs_of("prune")[0]["metadata"]["name"]]
    world.step()
    assert [path[-1] for path in removes(world)] == [*"bcdea"], "it continues"


def test_a_job_that_does_not_end_is_reported() -> None:
    world = serving("a")
    world.finetunejobs.clear()
    accept(world)
    world.step()
    assert "still on the volume" not in world.condition("Ready")["message"]
    world.now += timedelta(minutes=10)
    world.step()
    ready = world.condition("Ready")
    assert "has not ended: run kubectl describe jobs,pods -l" in ready["message"]
    assert ready["status"] == "True"
    (job,) = world.jobs_of("prune")
    for labels in (job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]):
        assert f"-l {naming.JOB_UID}={labels[naming.JOB_UID]}." in ready["message"]
    end(world)
    world.step()
    assert "still on the volume" not in world.condition("Ready")["message"]


@pytest.mark.parametrize("kind", ["Job", "NetworkPolicy"])
def test_a_rejected_removal_concerns_no_model(kind: str) -> None:
    world = serving("a", "b")
    del world.finetunejobs["b"]
    world.step()
    world.report()
    plan = world.plan()
    rejected = [action.object for action in plan.actions if action.object["kind"] == kind][-1]
    for planned in (plan.status, None):
        report = planner.report(
            world.snapshot(),
            reason=Reason.QUOTA_EXCEEDED,
            message="exceeded quota.",
            now=world.now,
            planned=planned,
            rejected=rejected,
        )
        before = plan.status if planned else world.status
        conditions = {each["type"]: each for each in report.status["conditions"]}
        assert conditions.keys() == {each["type"] for each in before["conditions"]}
        ready = conditions["Ready"]
        assert (ready["status"], ready["reason"]) == ("True", "Serving")
        assert ready["message"] == (
            "1 of 1 model names answer. No folder of a deleted FineTuneJob is removed from the "
            "volume: exceeded quota."
        )
        world.endpoint["status"] = plan.status


def test_another_claim_has_no_folders_yet() -> None:
    world = serving("a", "b")
    del world.finetunejobs["b"]
    accept(world)
    world.objects[CLAIM]["metadata"]["deletionTimestamp"] = "2026-11-30T09:00:00Z"
    world.step()
    assert not removes(world), "its pod would keep the claim"
    del world.objects[CLAIM]
    world.step()
    assert listed(world) == ["a"]


def test_a_job_is_removed_only_after_a_live_read_of_the_jobs() -> None:
    world = serving("a", "b")
    del world.finetunejobs["b"]
    world.step()
    world.report()
    snapshot = world.snapshot()
    needed = planner.confirmation(snapshot, planner.plan(snapshot, now=world.now))
    assert (needed.cause, "FineTuneJob" in needed.kinds) == ("prune", True)


def test_a_crash_after_any_write_removes_the_same_folders() -> None:
    for writes in range(10):
        world = serving("a", "b", "c")
        for name in "bc":
            del world.finetunejobs[name]
        for number in range(20):
            world.execute(world.plan(), writes=None if number % 2 else writes)
            world.report()
            if world.jobs_of("prune"):
                end(world)
        assert (listed(world), removes(world)) == (["a"], []), writes


def test_the_command_follows_no_link(tmp_path: Path) -> None:
    world = serving("a")
    world.finetunejobs.clear()
    accept(world)
    other = tmp_path / "jobs" / "uid-of-b"
    other.mkdir(parents=True)
    (other / "adapter").write_text("weights")
    folder = tmp_path / "jobs" / "uid-of-a"
    (job,) = world.jobs_of("prune")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    command = [part.replace("/jobs", str(tmp_path / "jobs")) for part in container["command"]]

    def remove() -> None:
        subprocess.run(command, check=True)
        assert list((tmp_path / "jobs").iterdir()) == [other]
        assert (other / "adapter").read_text() == "weights"

    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "link").symlink_to(other)
    remove()
    folder.symlink_to(other)
    remove()
    remove()


def test_the_pod_reaches_nothing_but_the_folders() -> None:
    world = serving("a")
    world.spec["model"]["tokenSecretRef"] = {"name": "hf"}
    world.finetunejobs.clear()
    accept(world)
    (job,) = world.jobs_of("prune")
    pod: dict[str, Any] = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["volumeMounts"] == [{"name": "work", "mountPath": "/jobs", "subPath": "jobs"}]
    assert [each["name"] for each in pod["volumes"]] == ["work"]
    assert "env" not in container
    assert not pod["automountServiceAccountToken"]
    policy = world.find("NetworkPolicy", "shared-endpoint-prune")["spec"]
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert (policy["ingress"], policy["egress"]) == ([], [])
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    (beside,) = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert world.deployment is not None
    serves = world.deployment["spec"]["template"]["metadata"]["labels"]
    assert beside["labelSelector"]["matchLabels"].items() <= serves.items()
