"""A job whose adapter a FineTuneEndpoint serves beside those of other jobs."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import SPEC, Cluster, Crash, Thing, check_status, copied, stored
from tests.fakes.controllers import digest_of, message, request_of

from finetune_api.contracts.stage_request import PrepareStageRequest, PublishStageRequest
from finetune_api.policy.limits import Limits, Names
from finetune_operator.objects import endpoints, naming
from finetune_operator.revisions.sharing.models import attached

ADAPTER = digest_of("adapterManifest")
SECOND = digest_of("adapter of the second revision")
THIRD = digest_of("adapter of the third revision")
SHARED: Thing = {"mode": "shared", "endpointRef": {"name": "chat"}}
OWN: Thing = {"mode": None, "endpointRef": None}
"""A merge patch that gives the job serving pods of its own."""
RETRAIN: Thing = {"training": {"seed": 1}}


def endpoint(uid: str = "e1", *, name: str = "chat", **lora: Any) -> Thing:
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneEndpoint",
        "metadata": {"name": name, "namespace": "default", "uid": uid, "generation": 1},
        "spec": {"model": SPEC["model"], "lora": lora},
        "status": {"volume": f"claim-of-{uid}"},
    }


def job(*, there: bool = True, spec: Thing = SPEC, **serving: Any) -> Cluster:
    found = Cluster(spec={**spec, "serving": {**SHARED, **serving}})
    if there:
        found.endpoints["chat"] = endpoint()
    return found


def trained(**serving: Any) -> Cluster:
    cluster = job(**serving)
    for stage in ("prepare", "train"):
        controllers.run(cluster, stage)
    cluster.settle()
    return cluster


def published(**serving: Any) -> Cluster:
    cluster = trained(**serving)
    controllers.publish(cluster)
    return cluster


def report(
    cluster: Cluster,
    state: str = "Serving",
    *,
    at: str = "chat",
    answers: str | None = None,
    **fields: Any,
) -> None:
    """Let an endpoint report the state of each name of the job, and reconcile."""
    model = cluster.status["sharedModel"]
    proof = {"outcome": "Verified", "distance": "0.02", "tolerance": "0.05", "boot": "b"}
    cluster.endpoints[at]["status"] |= {
        "models": [
            {
                "name": name,
                "job": cluster.name,
                "revision": model["revision"],
                "adapter": model["adapter"],
                "attempt": model["attempt"],
                "state": state,
                **({} if answers is None else {"answers": answers, **proof}),
                **fields,
            }
            for name in model["names"]
        ]
    }
    cluster.settle()
    check_status(stored(cluster.status))


def served(**serving: Any) -> Cluster:
    cluster = published(**serving)
    report(cluster, answers=ADAPTER)
    return cluster


def conditions(cluster: Cluster) -> dict[str, tuple[str, str]]:
    return {each["type"]: (each["status"], each["reason"]) for each in cluster.status["conditions"]}


def ready(cluster: Cluster) -> tuple[str, str]:
    return conditions(cluster)["Ready"]


def says(cluster: Cluster) -> str:
    return str(cluster.status["conditions"][0]["message"])


def stages(cluster: Cluster) -> list[str]:
    return [each["metadata"]["labels"][naming.STAGE] for each in cluster.each("Job")]


def test_a_job_publishes_only_to_a_folder_that_its_endpoint_lists() -> None:
    cluster = job()
    uid = cluster.present_job()["metadata"]["uid"]
    of_earlier_job = {"job": cluster.name, "uid": "another"}
    cluster.endpoints["chat"]["status"]["folders"] = [of_earlier_job]
    for stage in ("prepare", "train"):
        controllers.run(cluster, stage)
    cluster.settle()
    assert "publish" not in stages(cluster)
    (waits,) = [each for each in cluster.status["conditions"] if each["type"] == "Published"]
    assert "waits for its folder in status.folders of FineTuneEndpoint chat" in waits["message"]
    cluster.endpoints["chat"]["status"]["folders"].append({"job": cluster.name, "uid": uid})
    cluster.settle()
    assert "publish" in stages(cluster)


def selector(cluster: Cluster) -> Thing:
    (service,) = cluster.each("Service")
    found: Thing = service["spec"]["selector"]
    return found


OF_ENDPOINT = {"finetune.dev/endpoint": "chat", "finetune.dev/stage": "serve-shared"}


def test_the_adapter_is_published_to_the_endpoint_without_a_merge() -> None:
    cluster = trained()
    assert ready(cluster) == ("False", "Publishing")
    controllers.sync(cluster)
    assert stages(cluster) == ["prepare", "train", "publish"]
    publish = list(cluster.each("Job"))[-1]
    pod = publish["spec"]["template"]["spec"]
    uid = cluster.present_job()["metadata"]["uid"]
    claim = {"claimName": "chat-endpoint"}
    assert {"name": "endpoint", "persistentVolumeClaim": claim} in pod["volumes"]
    mount = {"name": "endpoint", "mountPath": "/endpoint", "subPath": f"jobs/{uid}"}
    assert mount in pod["containers"][0]["volumeMounts"]
    (terms,) = pod["affinity"]["podAffinity"].values()
    own = {"finetune.dev/job": cluster.name, "finetune.dev/stage": "serve"}
    labels = [
        (each["weight"], each["podAffinityTerm"]["labelSelector"]["matchLabels"]) for each in terms
    ]
    assert labels == [(100, own), (50, OF_ENDPOINT)], "its own pods hold the volume of the job"
    request = request_of(publish)
    assert isinstance(request, PublishStageRequest)
    (target,) = request.targets
    assert (target.name, target.what, target.content) == ("endpoint", "adapter", ADAPTER)
    assert target.endpoint is not None
    assert (target.endpoint.folder, target.endpoint.path) == ("/endpoint", f"jobs/{uid}")
    assert target.endpoint.shared.max_rank == 16


def test_a_volume_that_several_nodes_mount_leaves_the_place_to_the_endpoint() -> None:
    cluster = job(
        spec={**SPEC, "storage": {**SPEC.get("storage", {}), "accessMode": "ReadWriteMany"}}
    )
    for stage in ("prepare", "train"):
        controllers.run(cluster, stage)
    cluster.settle()
    pod = list(cluster.each("Job"))[-1]["spec"]["template"]["spec"]
    (terms,) = pod["affinity"]["podAffinity"].values()
    labels = [each["podAffinityTerm"]["labelSelector"]["matchLabels"] for each in terms]
    assert labels == [OF_ENDPOINT]


def test_the_endpoint_gets_what_it_needs_from_the_status() -> None:
    cluster = published(servedModelNames=["acme/support", "support"])
    assert ready(cluster) == ("False", "Starting")
    model, present = cluster.status["sharedModel"], cluster.present_job()
    assert model["names"] == ["acme/support", "support"]
    (found,) = attached([present], cluster.endpoints["chat"], "claim-of-e1")
    assert found.is_present
    assert found.model.adapter == ADAPTER
    assert found.model.path == f"jobs/{present['metadata']['uid']}/{ADAPTER}"
    frozen = cluster.status["revisions"][0]["frozen"]
    assert found.model.revision == frozen["digest"]
    assert cluster.status["publish"] == [
        {
            "name": "endpoint",
            "reference": f"endpoint://chat/{ADAPTER}",
            "digest": cluster.status["publish"][0]["digest"],
            "time": cluster.status["publish"][0]["time"],
        }
    ]
    assert "publishedDigests" not in cluster.status, "no tag moves from it"


def test_the_job_is_ready_once_each_name_answers_with_its_adapter() -> None:
    cluster = published()
    for state in ("Waiting", "Loading", "Proving"):
        report(cluster, state)
        assert ready(cluster) == ("False", "Starting")
        assert f"({state})" in says(cluster)
        assert not list(cluster.each("Service"))
    report(cluster, answers="0" * 64)
    assert ready(cluster) == ("False", "Starting"), "another adapter answers"
    report(cluster, answers=ADAPTER)
    assert ready(cluster) == ("True", "Serving")
    assert says(cluster).endswith("as demo")
    assert conditions(cluster)["Serving"] == ("True", "Available")
    assert conditions(cluster)["Finished"] == ("True", "Serving")
    assert selector(cluster) == OF_ENDPOINT
    assert not list(cluster.each("Deployment"))
    status = cluster.status
    assert status["serving"]["build"] == status["build"]
    assert status["verification"] == {
        "build": status["build"],
        "outcome": "Verified",
        "distance": "0.02",
        "tolerance": "0.05",
    }


def test_all_names_must_answer() -> None:
    cluster = published(servedModelNames=["a", "b"])
    report(cluster, answers=ADAPTER)
    assert ready(cluster) == ("True", "Serving")
    del cluster.endpoints["chat"]["status"]["models"][1]
    cluster.settle()
    assert ready(cluster) == ("False", "Restarting")
    assert conditions(cluster)["Serving"][0] == "False"


def test_a_missing_endpoint_keeps_the_job_from_requesting_anything() -> None:
    cluster = job(there=False)
    cluster.settle()
    assert ready(cluster) == ("False", "EndpointNotFound")
    assert "FineTuneEndpoint chat does not exist" in says(cluster)
    assert "spec.serving.endpointRef.name" in says(cluster)
    assert not list(cluster.each("Job"))
    cluster.endpoints["chat"] = endpoint()
    cluster.settle()
    assert stages(cluster) == ["prepare"]


def cannot_serve(reason: str, *, ready: str = "False", **status: Any) -> Thing:
    """Return the status of an endpoint that waits for an administrator or for an edit."""
    return {
        "conditions": [
            {"type": "Ready", "status": ready, "reason": reason, "message": "Ask somebody."},
            {"type": "Stalled", "status": "True", "reason": reason},
        ],
        **status,
    }


@pytest.mark.parametrize(
    "status",
    [
        cannot_serve("SigningKeyMissing", base={"manifest": "c" * 64}),
        cannot_serve("NotAllowed"),
        cannot_serve("InvalidSpec"),
        cannot_serve("ModelNotFound", baseAttempt={"attempt": 1, "outcome": "Failed"}),
    ],
    ids=lambda status: status["conditions"][0]["reason"],
)
def test_a_job_does_not_train_for_an_endpoint_that_cannot_serve_it(status: Thing) -> None:
    cluster = job()
    cluster.endpoints["chat"]["status"] = status
    cluster.settle()
    assert ready(cluster) == ("False", status["conditions"][0]["reason"])
    assert says(cluster).startswith("FineTuneEndpoint chat cannot serve the model: Ask somebody.")
    assert not list(cluster.each("Job"))
    del cluster.endpoints["chat"]["status"]
    cluster.settle()
    assert stages(cluster) == ["prepare"]


def test_a_job_does_not_train_for_a_name_that_is_reserved_for_a_base() -> None:
    cluster = job(servedModelNames=["support", "support-base"])
    cluster.settle()
    assert ready(cluster) == ("False", "NameConflict")
    assert "support-base ends in -base, which is reserved" in says(cluster)
    assert "spec.serving.servedModelNames of FineTuneJob demo" in says(cluster)
    assert not list(cluster.each("Job"))
    cluster.edit(serving={"servedModelNames": ["support"]})
    cluster.settle()
    assert stages(cluster) == ["prepare"]


def test_the_name_of_the_job_is_a_model_name_as_well() -> None:
    cluster = Cluster(name="support-base", spec={**SPEC, "serving": SHARED})
    cluster.endpoints["chat"] = endpoint()
    cluster.settle()
    assert ready(cluster) == ("False", "NameConflict")
    assert not list(cluster.each("Job"))


def test_a_job_trains_for_a_reserved_name_that_it_has_already() -> None:
    cluster = job(servedModelNames=["support-base"])
    record = {"name": "support-base", "job": "demo", "state": "Serving"}
    cluster.endpoints["chat"]["status"]["models"] = [record]
    cluster.settle()
    assert stages(cluster) == ["prepare"]


@pytest.mark.parametrize("reason", ["Unschedulable", "EndpointDown"])
def test_a_job_trains_while_its_endpoint_waits(reason: str) -> None:
    cluster = job()
    cluster.endpoints["chat"]["status"] = cannot_serve(reason)
    cluster.settle()
    assert stages(cluster) == ["prepare"]


def test_a_job_does_not_train_for_an_endpoint_that_is_being_deleted() -> None:
    cluster = job()
    cluster.endpoints["chat"]["metadata"]["deletionTimestamp"] = "2026-11-30T09:00:00Z"
    cluster.settle()
    assert ready(cluster) == ("False", "EndpointNotFound")
    assert "is being deleted" in says(cluster)
    assert not list(cluster.each("Job"))


def test_a_job_that_is_served_does_not_depend_on_the_key_of_its_endpoint() -> None:
    cluster = served()
    cluster.endpoints["chat"]["status"] |= cannot_serve("SigningKeyMissing")
    cluster.settle()
    assert ready(cluster) == ("True", "Serving")


def test_prepare_knows_the_limits_of_the_endpoint() -> None:
    cluster = job()
    base = {"source": "a" * 64, "codes": "b" * 64, "manifest": "c" * 64}
    cluster.endpoints["chat"] = {**endpoint(maxRank=8), "status": {"base": base, "volume": "claim"}}
    cluster.settle()
    request = request_of(next(cluster.each("Job")))
    assert isinstance(request, PrepareStageRequest)
    assert request.endpoint is not None
    assert (request.endpoint.max_rank, request.endpoint.source) == (8, "a" * 64)
    assert not request.merges
    assert request.serving is None


@pytest.mark.parametrize("state", ["EndpointFull", "NameConflict"])
def test_a_refused_model_continues_by_itself(state: str) -> None:
    cluster = published()
    report(cluster, state, message="Raise spec.lora.maxAdapters of the FineTuneEndpoint.")
    assert ready(cluster) == ("False", state)
    assert conditions(cluster)["Stalled"] == ("True", state)
    assert "maxAdapters" in says(cluster)
    report(cluster, answers=ADAPTER)
    assert ready(cluster) == ("True", "Serving")


def test_a_model_that_is_not_verified_never_serves() -> None:
    cluster = published()
    report(cluster, "Failed", message="The log-probabilities differ.")
    assert ready(cluster) == ("False", "VerificationFailed")
    assert "spec.rerun" in says(cluster)
    assert not list(cluster.each("Service"))


def has_no_pods(cluster: Cluster) -> bool:
    """Report whether each Deployment of the job was deleted; it exists until its pods are gone."""
    return all("deletionTimestamp" in each["metadata"] for each in cluster.each("Deployment"))


def own_pods() -> Cluster:
    """Return a job whose own pods serve, and whose spec then names the endpoint."""
    cluster = Cluster()
    controllers.run_all(cluster)
    cluster.settle()
    assert ready(cluster) == ("True", "Serving")
    cluster.endpoints["chat"] = endpoint()
    cluster.edit(serving=SHARED)
    cluster.settle()
    return cluster


def test_the_old_pods_serve_until_the_model_answers() -> None:
    cluster = own_pods()
    assert stages(cluster)[-1] == "publish", "neither training nor merge is repeated"
    build = cluster.builds[0]
    controllers.publish(cluster)
    report(cluster, "Failed", message="No.")
    assert ready(cluster) == ("False", "VerificationFailed")
    assert f"Build {build}" in says(cluster)
    assert conditions(cluster)["Serving"] == ("True", "Available")
    assert selector(cluster)[naming.BUILD] == build
    assert not has_no_pods(cluster)
    report(cluster, answers=ADAPTER)
    assert selector(cluster) == OF_ENDPOINT
    assert has_no_pods(cluster)
    assert ready(cluster) == ("True", "Serving")


@pytest.mark.parametrize("write", range(4))
def test_the_switch_survives_a_crash_before_each_write(write: int) -> None:
    cluster = own_pods()
    controllers.publish(cluster)
    model = cluster.status["sharedModel"]
    fields = {"job": cluster.name, "state": "Serving", "answers": ADAPTER, "outcome": "Verified"}
    cluster.endpoints["chat"]["status"] |= {
        "models": [{"name": "demo", **{k: model[k] for k in ("revision", "adapter")}, **fields}]
    }
    with contextlib.suppress(Crash):
        cluster.reconcile(die_before=write)
    cluster.settle()
    assert ready(cluster) == ("True", "Serving")
    assert selector(cluster) == OF_ENDPOINT
    assert has_no_pods(cluster)


def test_the_endpoint_serves_until_own_pods_answer() -> None:
    cluster = served()
    build, model = cluster.status["build"], cluster.status["sharedModel"]
    cluster.edit(serving=OWN)
    cluster.settle()
    assert cluster.status["sharedModel"] == model
    assert conditions(cluster)["Serving"] == ("True", "Available")
    controllers.run(cluster, "merge")
    cluster.settle()
    assert cluster.status["sharedModel"] == model
    assert cluster.status["serving"]["build"] == build
    assert selector(cluster) == OF_ENDPOINT
    controllers.serve(cluster)
    cluster.settle()
    assert ready(cluster) == ("True", "Serving")
    assert selector(cluster)[naming.BUILD] == cluster.status["build"] != build
    assert "sharedModel" not in cluster.status


def test_the_earlier_revision_answers_while_another_one_is_trained() -> None:
    cluster = served()
    first = cluster.status["sharedModel"]
    cluster.edit(**RETRAIN)
    artifacts = {"adapterManifest": SECOND}
    for stage, text in (("prepare", None), ("train", message("train", artifacts=artifacts))):
        controllers.run(cluster, stage, text=text)
        cluster.settle()
        assert cluster.status["sharedModel"] == first
        assert conditions(cluster)["Serving"] == ("True", "Available")
    assert cluster.status["serving"]["summary"].endswith("(old)")
    controllers.publish(cluster)
    publish = [each for each in cluster.each("Job") if "publish" in each["metadata"]["name"]][-1]
    request: Any = request_of(publish)
    assert request.targets[0].endpoint.keep == (ADAPTER,)
    second = cluster.status["sharedModel"]
    assert (second["adapter"], second["revision"] == first["revision"]) == (SECOND, False)
    report(cluster, "Proving", answers=ADAPTER)
    assert cluster.status["serving"]["build"] == cluster.builds[0]
    assert conditions(cluster)["Serving"] == ("True", "Available")
    assert ready(cluster) == ("False", "Starting")
    report(cluster, answers=SECOND)
    assert ready(cluster) == ("True", "Serving")
    assert cluster.status["serving"]["build"] == cluster.builds[1]


def retrain(cluster: Cluster, seed: int, adapter: str) -> None:
    cluster.edit(training={"seed": seed})
    controllers.run(cluster, "prepare")
    artifacts = {"adapterManifest": adapter}
    controllers.run(cluster, "train", text=message("train", artifacts=artifacts))
    cluster.settle()


def latest_publication(cluster: Cluster) -> Any:
    jobs = [each for each in cluster.each("Job") if "publish" in each["metadata"]["name"]]
    return request_of(jobs[-1]).targets[0]


def test_a_revision_whose_folder_was_removed_is_published_again() -> None:
    cluster = served()
    for seed, adapter in ((1, SECOND), (2, THIRD)):
        retrain(cluster, seed, adapter)
        controllers.publish(cluster)
        report(cluster, answers=adapter)
    assert latest_publication(cluster).endpoint.keep == (SECOND,), "the first one was removed"
    cluster.edit(training={"seed": 1})
    cluster.settle()
    report(cluster, answers=SECOND)
    assert ready(cluster) == ("True", "Serving"), "the previous one is still there"
    cluster.edit(training={"seed": None})
    cluster.settle()
    assert ready(cluster) == ("False", "Publishing")
    assert cluster.status["sharedModel"]["adapter"] == SECOND
    controllers.publish(cluster)
    assert latest_publication(cluster).content == ADAPTER
    report(cluster, answers=ADAPTER)
    assert ready(cluster) == ("True", "Serving")


def test_the_folder_of_the_adapter_that_answers_is_kept() -> None:
    cluster = served()
    retrain(cluster, 1, SECOND)
    controllers.publish(cluster)
    report(cluster, "Proving", answers=ADAPTER)
    retrain(cluster, 2, THIRD)
    assert cluster.status["sharedModel"]["adapter"] == ADAPTER, "the second one is not wanted"
    controllers.sync(cluster)
    assert latest_publication(cluster).endpoint.keep == (ADAPTER,)


def with_failed_revision() -> Cluster:
    """Return a job whose second adapter was not verified, while the first one answers."""
    cluster = served()
    retrain(cluster, 1, SECOND)
    controllers.publish(cluster)
    assert cluster.status["sharedModel"]["adapter"] == SECOND
    report(cluster, "Failed", answers=ADAPTER, message="The log-probabilities differ.")
    return cluster


def test_after_a_failed_revision_the_endpoint_is_asked_for_the_earlier_one() -> None:
    """A restart of vLLM ends all names, and only what the list has returns."""
    cluster = with_failed_revision()
    first = cluster.status["sharedModel"]
    frozen = cluster.status["revisions"][0]["frozen"]
    assert (first["adapter"], first["revision"]) == (ADAPTER, frozen["digest"])
    assert ready(cluster) == ("False", "VerificationFailed")
    said = says(cluster)
    assert "The log-probabilities differ. Build" in said
    report(cluster, "Unknown", message="vLLM starts.")
    assert conditions(cluster)["Serving"] == ("False", "NotAvailable")
    report(cluster, answers=ADAPTER)
    assert (ready(cluster), says(cluster)) == (("False", "VerificationFailed"), said)
    assert conditions(cluster)["Serving"] == ("True", "Available")
    assert cluster.status["serving"]["build"] == cluster.builds[0]
    assert latest_publication(cluster).content == SECOND, "nothing is published again"


def edited_endpoint(spec: Thing) -> Any:
    """Return the edit of some fields of the endpoint."""

    def edit(cluster: Cluster) -> None:
        cluster.endpoints["chat"]["metadata"]["generation"] += 1
        cluster.endpoints["chat"]["spec"] |= spec

    return edit


@pytest.mark.parametrize(
    "change",
    [
        *(
            edited_endpoint(spec)
            for spec in (
                {"allowInconclusive": True},
                {"lora": {"maxRank": 64}},
                {"dtype": "float16"},
                {"maxModelLen": 4096},
                {"gpuMemoryUtilization": 0.9},
                {"resources": {"serve": {"limits": {"memory": "32Gi"}}}},
                {"placement": {"zones": ["eu-central-1a"]}},
            )
        ),
        lambda cluster: cluster.edit(serving={"servedModelNames": ["support"]}),
    ],
)
def test_a_failed_revision_is_verified_again_after_an_edit(change: Any) -> None:
    cluster = with_failed_revision()
    report(cluster, answers=ADAPTER)
    change(cluster)
    cluster.settle()
    assert cluster.status["sharedModel"]["adapter"] == SECOND
    report(cluster, answers=SECOND)
    assert ready(cluster) == ("True", "Serving")
    assert cluster.status["serving"]["build"] == cluster.builds[-1]


@pytest.mark.parametrize(
    "spec",
    [
        {"access": {"allowedNamespaces": ["apps"]}},
        {"storage": {"size": "90Gi"}},
        {"lora": {"maxAdapters": 20, "maxWaitSeconds": 5}},
        {"toolCallParser": "hermes"},
    ],
    ids=lambda spec: min(spec),
)
def test_an_edit_that_cannot_change_the_result_offers_no_failed_revision(spec: Thing) -> None:
    cluster = with_failed_revision()
    report(cluster, answers=ADAPTER)
    edited_endpoint(spec)(cluster)
    cluster.settle()
    assert cluster.status["sharedModel"]["adapter"] == ADAPTER
    assert ready(cluster) == ("False", "VerificationFailed")


def test_the_first_adapter_of_a_job_is_offered_although_it_failed() -> None:
    """The endpoint has nothing else of the job, and its next start may verify it."""
    cluster = published()
    report(cluster, "Failed", message="No.")
    assert cluster.status["sharedModel"]["adapter"] == ADAPTER
    assert "run ftj retry on the job" in says(cluster)
    report(cluster, answers=ADAPTER)
    assert ready(cluster) == ("True", "Serving")


@pytest.mark.parametrize("make", [published, with_failed_revision])
def test_a_retry_asks_the_endpoint_for_another_attempt(make: Callable[[], Cluster]) -> None:
    """What ``ftj retry`` does, whether an earlier adapter answers or not."""
    cluster, wanted = make(), SECOND
    if make is published:
        report(cluster, "Failed", message="No.")
        wanted = ADAPTER
    before = cluster.status["sharedModel"]["attempt"]
    cluster.edit(runPolicy={"maxRestarts": 21})
    cluster.settle()
    shared = cluster.status["sharedModel"]
    assert (shared["adapter"], shared["attempt"]) == (wanted, before + 1)
    report(cluster, answers=wanted)
    assert ready(cluster) == ("True", "Serving")
    assert cluster.status["sharedModel"]["attempt"] == before + 1


def moved() -> Cluster:
    """Return a job that has published to another endpoint, which has not verified it."""
    cluster = served()
    cluster.endpoints["other"] = endpoint("e2", name="other")
    cluster.edit(serving={"endpointRef": {"name": "other"}})
    cluster.settle()
    controllers.publish(cluster)
    return cluster


def test_the_former_endpoint_answers_until_the_next_one_has_verified_the_adapter() -> None:
    cluster = served()
    before = cluster.status["sharedModel"]
    cluster.endpoints["other"] = endpoint("e2", name="other")
    cluster.edit(serving={"endpointRef": {"name": "other"}})
    cluster.settle()
    assert cluster.status["sharedModel"] == before
    controllers.publish(cluster)
    assert cluster.status["formerModel"] == before
    assert cluster.status["sharedModel"]["endpointUID"] == "e2"
    present = cluster.present_job()
    for name, claim in (("chat", "claim-of-e1"), ("other", "claim-of-e2")):
        (found,) = attached([present], cluster.endpoints[name], claim)
        assert found.is_present
    assert endpoints.referred(endpoints.reference(present) or {}) == {"chat", "other"}
    report(cluster, "Proving", at="other")
    assert (ready(cluster), conditions(cluster)["Serving"]) == (
        ("False", "Starting"),
        ("True", "Available"),
    )
    assert selector(cluster)["finetune.dev/endpoint"] == "chat"
    report(cluster, at="other", answers=ADAPTER)
    assert ready(cluster) == ("True", "Serving")
    assert selector(cluster)["finetune.dev/endpoint"] == "other"
    assert "formerModel" not in cluster.status
    assert attached([cluster.present_job()], cluster.endpoints["chat"], "claim-of-e1") == ()


def test_a_failure_at_the_next_endpoint_leaves_the_former_one() -> None:
    cluster = moved()
    report(cluster, "Failed", at="other", message="No.")
    assert ready(cluster) == ("False", "VerificationFailed")
    assert conditions(cluster)["Serving"] == ("True", "Available")
    del cluster.endpoints["other"]
    cluster.settle()
    assert ready(cluster) == ("False", "EndpointNotFound")
    assert conditions(cluster)["Serving"] == ("True", "Available")
    assert (cluster.status["sharedModel"]["endpoint"], "formerModel" in cluster.status) == (
        "chat",
        False,
    )


def test_a_job_that_moves_during_a_rollout_keeps_the_adapter_that_answers() -> None:
    cluster = served()
    retrain(cluster, 1, SECOND)
    controllers.publish(cluster)
    report(cluster, "Proving", answers=ADAPTER)
    cluster.endpoints["other"] = endpoint("e2", name="other")
    cluster.edit(serving={"endpointRef": {"name": "other"}})
    cluster.settle()
    assert cluster.status["sharedModel"]["adapter"] == ADAPTER
    controllers.publish(cluster)
    former, shared = cluster.status["formerModel"], cluster.status["sharedModel"]
    assert (former["endpoint"], former["adapter"]) == ("chat", ADAPTER)
    assert (shared["endpoint"], shared["adapter"]) == ("other", SECOND)


def test_a_job_returns_to_the_former_endpoint() -> None:
    cluster = moved()
    cluster.edit(serving={"endpointRef": {"name": "chat"}})
    cluster.settle()
    controllers.publish(cluster)
    assert cluster.status["sharedModel"]["endpointUID"] == "e1"
    assert "formerModel" not in cluster.status
    report(cluster, answers=ADAPTER)
    assert ready(cluster) == ("True", "Serving")


def test_a_job_moves_on_from_an_endpoint_that_was_deleted() -> None:
    cluster = moved()
    del cluster.endpoints["chat"]
    cluster.settle()
    assert conditions(cluster)["Serving"] == ("False", "NotAvailable")
    report(cluster, at="other", answers=ADAPTER)
    assert ready(cluster) == ("True", "Serving")


def test_a_restart_of_the_engine_is_reported() -> None:
    cluster = served()
    report(cluster, "Unknown", message="The pod of the endpoint does not answer.")
    assert ready(cluster) == ("False", "Restarting")
    assert "does not answer" in says(cluster)
    assert conditions(cluster)["Serving"] == ("False", "NotAvailable")
    assert selector(cluster) == OF_ENDPOINT
    assert cluster.status["verification"]["outcome"] == "Verified"
    report(cluster, answers=ADAPTER)
    assert ready(cluster) == ("True", "Serving")


def failed_after_a_restart() -> Cluster:
    cluster = served()
    report(cluster, "Proving")
    report(cluster, "Failed", message="The log-probabilities differ.")
    assert ready(cluster) == ("False", "VerificationFailed")
    return cluster


def test_an_adapter_that_served_and_failed_after_a_restart_is_tried_again_on_request() -> None:
    cluster = failed_after_a_restart()
    before, build = cluster.status["sharedModel"], cluster.status["build"]
    assert before["attempt"] == 1, "a restart is no other attempt"
    assert "run ftj retry" in says(cluster)
    cluster.edit(runPolicy={"maxRestarts": 21})
    cluster.settle()
    assert cluster.status["sharedModel"] == {**before, "attempt": 2}
    assert ready(cluster) == ("False", "Restarting")
    assert selector(cluster) == OF_ENDPOINT
    assert cluster.status["serving"]["build"] == build
    report(cluster, "Failed", message="The log-probabilities differ.")
    assert ready(cluster) == ("False", "VerificationFailed")
    assert cluster.status["sharedModel"]["attempt"] == 2, "one edit gives one attempt"
    cluster.edit(runPolicy={"maxRestarts": 22})
    cluster.settle()
    assert cluster.status["sharedModel"]["attempt"] == 3
    report(cluster, answers=ADAPTER)
    assert ready(cluster) == ("True", "Serving")
    assert stages(cluster).count("publish") == stages(cluster).count("train") == 1


def test_an_edit_while_the_adapter_answers_is_no_request_for_a_later_failure() -> None:
    cluster = served()
    cluster.edit(runPolicy={"maxRestarts": 21})
    cluster.settle()
    assert ready(cluster) == ("True", "Serving")
    report(cluster, "Failed", message="The log-probabilities differ.")
    assert ready(cluster) == ("False", "VerificationFailed")
    assert cluster.status["sharedModel"]["attempt"] == 1


def test_another_endpoint_of_the_same_name_gets_the_adapter_again() -> None:
    cluster = served()
    old = copied(cluster.endpoints["chat"])
    del cluster.endpoints["chat"]
    cluster.settle()
    assert ready(cluster) == ("False", "EndpointNotFound")
    cluster.endpoints["chat"] = {
        **endpoint("e2"),
        "status": {**old["status"], "volume": "claim-of-e2"},
    }
    cluster.settle()
    assert ready(cluster) == ("False", "Publishing"), "its claim is another one"
    controllers.publish(cluster)
    assert cluster.status["sharedModel"]["endpointUID"] == "e2"


def without_endpoint(cluster: Cluster) -> None:
    del cluster.endpoints["chat"]


def with_another_endpoint(cluster: Cluster) -> None:
    """Replace the endpoint before the claim of the deleted one is gone."""
    cluster.endpoints["chat"] = {**endpoint("e2"), "status": {}}


def without_claim(cluster: Cluster) -> None:
    waits = {"type": "Ready", "status": "False", "reason": "WaitingForVolume"}
    cluster.endpoints["chat"]["status"]["conditions"] = [waits]


@pytest.mark.parametrize("change", [without_endpoint, with_another_endpoint, without_claim])
@pytest.mark.parametrize("failed", [(), ("endpoint",)])
def test_an_ended_publish_job_does_not_keep_the_claim_of_an_endpoint(
    change: Callable[[Cluster], None], failed: tuple[str, ...]
) -> None:
    """Kubernetes deletes a claim after all pods that mount it, even those that have ended."""
    cluster = trained()
    controllers.publish(cluster, *failed)
    cluster.settle()
    assert "publish" in stages(cluster), "its log and its message can be read"
    change(cluster)
    cluster.settle()
    for _ in ("its pod", "the Job"):
        controllers.collect(cluster)
    assert "publish" not in stages(cluster)
    assert {"prepare", "train"} <= {*stages(cluster)}


def test_another_claim_of_the_endpoint_gets_the_adapter_again() -> None:
    cluster = served()
    status = cluster.endpoints["chat"]["status"]
    status |= {
        "volume": "another",
        "models": [{**each, "state": "Waiting", "answers": None} for each in status["models"]],
    }
    cluster.settle()
    assert ready(cluster) == ("False", "Publishing"), "it is empty"
    assert cluster.status["sharedModel"]["volume"] == "claim-of-e1"
    controllers.publish(cluster)
    assert latest_publication(cluster).endpoint.keep == ()
    assert cluster.status["sharedModel"]["volume"] == "another"
    report(cluster, answers=ADAPTER)
    assert ready(cluster) == ("True", "Serving")


def test_a_publication_to_a_claim_that_was_replaced_meanwhile_does_not_count() -> None:
    cluster = trained()
    controllers.sync(cluster)
    cluster.endpoints["chat"]["status"]["volume"] = "another"
    controllers.publish(cluster)
    assert "sharedModel" not in cluster.status
    controllers.sync(cluster)
    controllers.publish(cluster)
    assert cluster.status["sharedModel"]["volume"] == "another"


def test_nothing_is_published_before_the_endpoint_has_a_claim() -> None:
    cluster = job()
    cluster.endpoints["chat"]["status"] = {}
    for stage in ("prepare", "train"):
        controllers.run(cluster, stage)
    cluster.settle()
    assert stages(cluster) == ["prepare", "train"]
    assert says(cluster) == "FineTuneEndpoint chat has no volume yet."
    cluster.endpoints["chat"]["status"] = {"volume": "claim"}
    cluster.settle()
    assert stages(cluster)[-1] == "publish"


def test_a_failed_publication_names_the_remedy_and_is_repeated_when_the_endpoint_changes() -> None:
    cluster = trained()
    controllers.publish(cluster, "endpoint", refusal="InvalidSpec")
    assert ready(cluster) == ("False", "InvalidSpec")
    assert "FineTuneEndpoint chat" in says(cluster)
    assert conditions(cluster)["Finished"][0] == "True"
    count = len(stages(cluster))
    cluster.endpoints["chat"]["spec"]["lora"] = {"maxRank": 32}
    cluster.settle()
    assert len(stages(cluster)) == count + 1
    controllers.publish(cluster)
    assert ready(cluster) == ("False", "Starting")


@pytest.mark.parametrize(
    "change", [{"spec": {"storage": {"size": "200Gi"}}}, {"status": {"volume": "another"}}]
)
def test_a_publication_that_found_no_space_is_repeated_with_another_volume(change: Thing) -> None:
    cluster = trained()
    controllers.publish(cluster, "endpoint", refusal="TargetRejected")
    assert ready(cluster) == ("False", "TargetRejected")
    count = len(stages(cluster))
    cluster.settle()
    assert len(stages(cluster)) == count
    for part, fields in change.items():
        cluster.endpoints["chat"].setdefault(part, {}).update(fields)
    cluster.settle()
    assert len(stages(cluster)) == count + 1


def test_a_job_that_serves_nothing_leaves_the_endpoint() -> None:
    cluster = served()
    cluster.edit(serving={"enabled": False})
    cluster.settle()
    assert "sharedModel" not in cluster.status
    controllers.sync(cluster)
    assert not list(cluster.each("Service"))


def test_a_suspended_job_is_not_offered_to_the_endpoint() -> None:
    cluster = published()
    cluster.edit(suspend=True)
    cluster.settle()
    assert "sharedModel" not in cluster.status
    cluster.edit(suspend=False)
    cluster.settle()
    assert cluster.status["sharedModel"]["adapter"] == ADAPTER


def test_other_targets_wait_until_the_endpoint_has_verified_the_model() -> None:
    registry = {"name": "a", "what": "adapter", "oci": {"repository": "registry.example.com/a"}}
    cluster = job(spec={**SPEC, "publish": [registry]})
    limits = Limits(publish_destinations=Names(allow=(".*",)))
    cluster.config = cluster.config.model_copy(update={"policy": limits})
    for stage in ("prepare", "train"):
        controllers.run(cluster, stage)
    controllers.publish(cluster)
    assert [each["name"] for each in cluster.status["publish"] if "digest" in each] == ["endpoint"]
    report(cluster, answers=ADAPTER)
    controllers.publish(cluster)
    assert all("digest" in each for each in cluster.status["publish"])


@pytest.mark.parametrize("serving", [{}, {"mode": "adapter"}, {"enabled": False}])
def test_a_job_that_uses_no_endpoint_never_depends_on_one(serving: Thing) -> None:
    without, beside = (Cluster(spec={**SPEC, "serving": serving}) for _ in range(2))
    beside.endpoints["chat"] = endpoint()
    for stage in ("prepare", "train", "merge"):
        plans = []
        for cluster in (without, beside):
            cluster.settle()
            snapshot = cluster.observe()
            plans.append(json.dumps(cluster.plan_of(snapshot).status, sort_keys=True, default=str))
        assert plans[0] == plans[1]
        if stage == "merge" and serving:
            break
        for cluster in (without, beside):
            controllers.run(cluster, stage)
