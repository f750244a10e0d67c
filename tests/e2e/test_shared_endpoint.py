"""A FineTuneEndpoint whose vLLM serves the adapters of two jobs, each under its own name.

All tests of this file use the same jobs, in this order: vLLM is killed, one job is edited, the
endpoint is deleted and applied again, the other job moves to an endpoint with the original base,
and is deleted. The unit tests have all of it with a fake vLLM or without one, so ``make test``
leaves all but the first test out.
"""

import time
from collections.abc import Iterator

import pytest
from tests.e2e.loading import under_load
from tests.e2e.shared import (
    ENDPOINT,
    OF_ENDPOINT,
    SECONDS,
    SHARED,
    Shared,
    apply_endpoint,
    sharing,
)
from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.target import Cluster, namespaces
from tests.support.local_cluster.tuning import MODEL, condition, label, small

NAMESPACE, EDITED, OTHER = "e2e-shared-endpoint", "billing", "returns"
ORIGINAL = "original"
"""The endpoint with the base as it was published."""


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[Shared]:
    """The endpoint after it has proved the adapters of both jobs."""
    specs = {
        name: small(dataset={"maxSamples": rows}, serving=SHARED)
        for name, rows in ((EDITED, 16), (OTHER, 12))
    }
    with namespaces(cluster, NAMESPACE), sharing(cluster, NAMESPACE, specs) as found:
        yield found


def test_each_name_has_the_adapter_of_its_job(shared: Shared) -> None:
    for name, job in shared.jobs.items():
        status = job.status()
        assert (status["verification"]["outcome"], status["serving"]["model"]) == ("Verified", name)
        assert [job.pods(stage) for stage in ("merge", "serve")] == [[], []]
    first, second = (shared.ask(name, EDITED, OTHER) for name in shared.jobs)
    assert first == second, "the Services of both jobs lead to the same endpoint"
    assert [code for code, _ in first] == [200, 200], first
    assert first[0] != first[1], "each name has its own adapter"
    # No other name is answered, neither with the base nor with an adapter.
    adapter = shared.models()[EDITED]["adapter"]
    for name in ("another", f"{ENDPOINT}-base", MODEL, adapter):
        ((code, _),) = shared.ask(EDITED, name)
        assert code == 404, name


@pytest.mark.exhaustive
def test_both_names_return_after_vllm_was_killed(shared: Shared, figures: list[str]) -> None:
    answers, pod = shared.ask(EDITED, EDITED, OTHER), shared.pod()
    began = time.time()
    shared.kill_vllm()
    for name, job in shared.jobs.items():
        job.wait_until("Ready", reason="Serving", seconds=SECONDS)
        figures.append(f"{name} returned {time.time() - began:.0f} s after vLLM was killed")
    assert shared.ask(EDITED, EDITED, OTHER) == answers
    assert shared.pod()["metadata"]["uid"] == pod["metadata"]["uid"]


@pytest.mark.exhaustive
def test_no_request_fails_while_a_new_revision_replaces_the_old_one(
    shared: Shared, figures: list[str]
) -> None:
    job, before, pod = shared.jobs[EDITED], shared.models()[EDITED], shared.pod()
    (old, other), served = shared.ask(EDITED, EDITED, OTHER), job.status()["serving"]["revision"]
    with under_load(job) as load:
        job.change(training={"learningRate": 2e-3})
        job.wait(
            "the new revision serves",
            lambda now: now["serving"].get("revision") not in (None, served),
            seconds=SECONDS,
        )
        outcome = load.end()
    figures.append(f"shared endpoint: {outcome}")
    assert (outcome.failed, outcome.broken) == ([], [])
    assert outcome.requests > 10
    now = shared.models()[EDITED]
    assert now["answers"] == now["adapter"] != before["adapter"]
    assert shared.pod()["metadata"]["uid"] == pod["metadata"]["uid"]
    changed, unchanged = shared.ask(EDITED, EDITED, OTHER)
    assert (changed[0], unchanged) == (200, other)
    assert changed != old, "the name answers with the new adapter"


def _serves_at(now: Object, endpoint: str) -> bool:
    """Report whether a job serves at an endpoint, and at no other one."""
    ready = condition(now, "Ready") or {}
    model = now.get("sharedModel", {})
    return (ready.get("reason"), model.get("endpoint"), "formerModel" in now) == (
        "Serving",
        endpoint,
        False,
    )


@pytest.mark.exhaustive
def test_jobs_return_when_their_deleted_endpoint_is_applied_again(
    shared: Shared, figures: list[str]
) -> None:
    before, answers = shared.endpoint()["metadata"]["uid"], shared.ask(EDITED, EDITED, OTHER)
    trained = {name: len(job.jobs("train")) for name, job in shared.jobs.items()}
    shared.cluster.kubectl.delete("finetuneendpoint", ENDPOINT, NAMESPACE)
    for job in shared.jobs.values():
        job.wait_until("Stalled", reason="EndpointNotFound", seconds=SECONDS)
        assert (job.condition("Serving") or {})["reason"] == "NotAvailable"
        assert f"FineTuneEndpoint {ENDPOINT} does not exist" in job.message()
        assert "create it" in job.message()
    # The pod of the deleted endpoint may still end, and holds the claim, whose name is the same.
    began = time.time()
    apply_endpoint(shared.cluster, NAMESPACE, places=len(shared.jobs))
    for name, job in shared.jobs.items():
        job.wait(
            "the endpoint answers again",
            lambda now: _serves_at(now, ENDPOINT),
            seconds=SECONDS,
            stalls=True,
        )
        figures.append(f"{name} returned {time.time() - began:.0f} s after its endpoint")
    assert shared.endpoint()["metadata"]["uid"] != before
    assert shared.ask(EDITED, EDITED, OTHER) == answers
    assert {name: len(job.jobs("train")) for name, job in shared.jobs.items()} == trained


@pytest.mark.exhaustive
def test_a_job_moves_to_an_endpoint_with_the_original_base(
    shared: Shared, figures: list[str]
) -> None:
    job, (kept, _) = shared.jobs[OTHER], shared.ask(EDITED, EDITED, OTHER)
    trained = len(job.jobs("train"))
    apply_endpoint(shared.cluster, NAMESPACE, ORIGINAL, places=1, base="original")
    job.change(serving={"endpointRef": {"name": ORIGINAL}})
    job.wait(
        "the other endpoint answers",
        lambda now: _serves_at(now, ORIGINAL),
        seconds=SECONDS,
        stalls=True,
    )
    assert ({*shared.models()}, {*shared.models(ORIGINAL)}) == ({EDITED}, {OTHER})
    for model in (*shared.models().values(), *shared.models(ORIGINAL).values()):
        measured = {key: model.get(key) for key in ("distance", "tolerance", "smallestFault")}
        figures.append(f"{model['name']}: {model['outcome']}, {measured}")
        assert (model["outcome"], model["answers"]) == ("Verified", model["adapter"])
    assert shared.ask(EDITED, EDITED) == [kept]
    assert [code for code, _ in shared.ask(OTHER, OTHER, EDITED)] == [200, 404]
    assert [code for code, _ in shared.ask(EDITED, OTHER)] == [404]
    assert len(job.jobs("train")) == trained


@pytest.mark.exhaustive
def test_the_folders_of_a_deleted_job_are_removed(shared: Shared, figures: list[str]) -> None:
    uids = {
        name: str((job.current() or {})["metadata"]["uid"]) for name, job in shared.jobs.items()
    }
    assert shared.folders() == set(uids.values()), "a job that moves away keeps its folder"
    assert shared.folders(ORIGINAL) == {uids[OTHER]}
    record = shared.cluster.record

    def removals() -> list[Object]:
        """Return the Jobs that removed a folder, after their deletion."""
        of_job = record.events(
            "Job", NAMESPACE, lambda item: label(item, "finetune.dev/job-uid") == uids[OTHER]
        )
        return [event.object for event in of_job if event.change == "DELETED"]

    with under_load(shared.jobs[EDITED]) as load:
        began = time.time()
        shared.jobs[OTHER].delete(seconds=SECONDS)
        record.wait(
            "the folder of the job is removed from both volumes",
            lambda: {label(job, OF_ENDPOINT) for job in removals()} == {ENDPOINT, ORIGINAL},
            seconds=SECONDS,
        )
        figures.append(f"the folders of {OTHER} were removed after {time.time() - began:.0f} s")
        outcome = load.end()
    assert all(job["status"].get("succeeded") for job in removals())
    assert (shared.folders(), shared.folders(ORIGINAL)) == ({uids[EDITED]}, set())
    for endpoint, kept in ((ENDPOINT, [uids[EDITED]]), (ORIGINAL, [])):
        listed = shared.endpoint(endpoint)["status"].get("folders", ())
        assert [folder["uid"] for folder in listed] == kept
    assert (outcome.failed, outcome.broken) == ([], [])
    assert [code for code, _ in shared.ask(EDITED, EDITED, OTHER)] == [200, 404]
