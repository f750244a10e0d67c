"""Laws of endpoints and of the jobs that share them, in every history."""

from collections.abc import Collection, Iterable, Mapping

from tests.fakes.apiserver import Cluster, Thing
from tests.support.reconcile.endpoint_world import World

from finetune_api.contracts.endpoint import WantedSet
from finetune_gate.names import Route, Table
from finetune_operator.objects import status_view
from finetune_operator.revisions.sharing.endpoints import REFUSED
from finetune_operator.types import Plan, Snapshot


def names_are_proved(world: World, proofs: Collection[tuple[str, str]]) -> None:
    """No name answers without a proof of the running start of vLLM. proofs: boots and adapters."""
    for model in world.status["models"]:
        if model.get("answers") is not None:
            assert model["boot"] == world.status["boot"], model
            assert (model["boot"], model["answers"]) in proofs, model
            assert world.status["baseAttempt"]["outcome"] == "Completed"
        if model["state"] == "Serving":
            assert model["answers"] == model["adapter"]


def names_stay(world: World, before: WantedSet | None) -> None:
    """A job keeps the names on the list, even if the operator has not read it.

    before: the list before a reconcile.
    """
    after = world.wanted()
    if before is None or after is None:
        return
    assert after.sequence >= before.sequence
    listed = {(name.name, name.job) for name in after.names}
    for name in before.names:
        job = world.finetunejobs.get(name.job, {})
        models = [
            model
            for model in status_view.shared_models(job)
            if model["endpoint"] == world.name and model["volume"] == world.claim
        ]
        if any(name.name in model["names"] for model in models):
            assert (name.name, name.job) in listed


def no_folder_of_a_job_that_exists_is_removed(uid: str, jobs: Iterable[Cluster]) -> None:
    """A Job of an endpoint removes the folder of a deleted job alone. uid: name of the folder."""
    assert uid not in {job.present_job()["metadata"]["uid"] for job in jobs}


def every_folder_of_a_deleted_job_is_removed(
    world: World, files: Iterable[tuple[str, str]], jobs: Iterable[Cluster]
) -> None:
    """In the end, the claim has only files of jobs that exist, and the status lists no others.

    files: UIDs of jobs and adapters on the claim.
    """
    uids = {job.present_job()["metadata"]["uid"] for job in jobs}
    assert {uid for uid, _ in files} <= uids
    assert {folder["uid"] for folder in world.folders} <= uids


def a_failed_adapter_removes_no_name(
    before: Mapping[str, Route], table: Table, wanted: WantedSet
) -> None:
    """A name that answers continues to answer while it is on the list. before: its routes."""
    listed = {(name.name, name.job) for name in wanted.names}
    for name, route in before.items():
        if (name, route.job) in listed:
            assert name in table.routes


def a_job_without_an_endpoint_waits_for_none(
    job: Cluster, snapshot: Snapshot, intended: Plan, every: tuple[Thing, ...]
) -> None:
    """No endpoint changes the plan of a job that uses none. every: all that exist."""
    if not status_view.endpoint_names(dict(snapshot.job)):
        aware = Snapshot(**{**vars(snapshot), "endpoints": every})
        assert job.plan_of(aware) == intended


def a_job_serves_only_what_its_endpoint_has_proved(snapshot: Snapshot, intended: Plan) -> None:
    """A job whose pods are those of an endpoint is available only if every name is proved."""
    conditions = {each["type"]: each["status"] for each in intended.status["conditions"]}
    record, attempt = _serving(dict(intended.status))
    if conditions["Serving"] != "True" or "endpoint" not in attempt:
        return
    (model,) = [
        model
        for model in status_view.shared_models(dict(snapshot.job))
        if model["endpoint"] == attempt["endpoint"]
    ]
    (endpoint,) = [
        each for each in snapshot.endpoints if each["metadata"]["name"] == attempt["endpoint"]
    ]
    answers = {
        each["name"]: each.get("answers")
        for each in endpoint["status"]["models"]
        if each["job"] == snapshot.job["metadata"]["name"]
    }
    expected = record["artifacts"]["adapterManifest"]
    assert {answers.get(name) for name in model["names"]} == {expected}


def a_good_model_returns(job: Cluster, faulty: Collection[str], lost: Collection[str]) -> None:
    """In the end, and after a restart of vLLM, a job that an endpoint serves is available.

    faulty: adapters that fail each proof. lost: endpoints that have lost a claim; they get only the
    adapter of the target again.
    """
    record, attempt = _serving(job.status)
    if "endpoint" not in attempt:
        return
    assert record["artifacts"]["adapterManifest"] not in faulty
    models = job.endpoints[attempt["endpoint"]]["status"]["models"]
    refused = any(each["job"] == job.name and each["state"] in REFUSED for each in models)
    only_target = attempt["endpoint"] in lost and attempt["build"] != job.status["build"]
    if not refused and not only_target:
        conditions = {each["type"]: each for each in job.status["conditions"]}
        assert conditions["Serving"]["status"] == "True", conditions["Ready"]


def _serving(status: Thing) -> tuple[Thing, Thing]:
    """Return the revision and the attempt of the serving build; empty ones if nothing serves."""
    build = (status.get("serving") or {}).get("build")
    for record in status["revisions"]:
        for attempt in record.get("stages") or ():
            if build is not None and (attempt["stage"], attempt.get("build")) == ("serve", build):
                return record, attempt
    return {}, {}
