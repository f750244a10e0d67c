"""A FineTuneEndpoint whose vLLM serves the adapters of two jobs, each under its own name.

All tests of this file use the same jobs, in this order: vLLM is killed, then one job is edited.
tests/unit/gate/test_endpoint.py has both with a fake vLLM, so ``make test`` leaves these two out.
"""

import time
from collections.abc import Iterator

import pytest
from tests.e2e.loading import under_load
from tests.e2e.shared import ENDPOINT, SECONDS, SHARED, Shared, sharing
from tests.support.local_cluster.target import Cluster, namespaces
from tests.support.local_cluster.tuning import MODEL, small

NAMESPACE, EDITED, OTHER = "e2e-shared-endpoint", "billing", "returns"


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
