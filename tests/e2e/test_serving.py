"""A serving job: allowed callers, rejection of a faulty build, and rollout of correct builds.

All tests of this file use one job, in this order, because each build is another edit of the job.
``make test`` has one rollout, with a GPU for each build.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.loading import under_load
from tests.e2e.planting import Candidate, candidate
from tests.e2e.rejection import reject
from tests.e2e.served import KEY, SPEC, Served, key_secret
from tests.support.local_cluster import gpus, pods
from tests.support.local_cluster.pods import Task
from tests.support.local_cluster.target import Cluster, namespaces
from tests.support.local_cluster.tuning import Tuning, condition

NAMESPACE, NAMED, OTHER = "e2e-serving", "e2e-serving-named", "e2e-serving-other"
FAULT = "half"
READY_SECONDS, ROLLOUT_SECONDS = 900.0, 900.0


@pytest.fixture(scope="module")
def served(cluster: Cluster) -> Iterator[Served]:
    """The job after it became Ready for the first time."""
    stay = Task(script="stay.py", image=cluster.operator_image())
    with namespaces(cluster, NAMESPACE, NAMED, OTHER):
        cluster.kubectl.apply(key_secret(NAMESPACE))
        allowed = {"serving": {**SPEC["serving"], "allowedNamespaces": [NAMESPACE, NAMED]}}
        tuning = Tuning(cluster=cluster, namespace=NAMESPACE, name="small").apply(SPEC | allowed)
        with (
            pods.started(cluster, OTHER, stay) as other,
            pods.started(cluster, NAMED, stay) as named,
            pods.started(cluster, NAMESPACE, stay) as own,
        ):
            tuning.wait_until("Ready", reason="Serving", seconds=READY_SECONDS)
            yield Served(tuning=tuning, callers={OTHER: other, NAMED: named, NAMESPACE: own})


@pytest.fixture(scope="module")
def planted(served: Served) -> Iterator[Candidate]:
    """A build whose first serving attempt has a fault."""
    build = {"dtype": "float16", "base": "dequantized"}
    with candidate(served.tuning, faults=(FAULT,), **build) as found:
        yield found


def test_only_allowed_namespaces_reach_the_endpoint(served: Served) -> None:
    pod = f"{served.serving_pod()['status']['podIP']}:8000"
    service = served.tuning.cluster.kubectl.get("service", "small-serve", NAMESPACE)
    addresses = (pod, f"{service['spec']['clusterIP']}:8000")
    for namespace in (NAMESPACE, NAMED):
        found = served.reach(namespace, *addresses)
        assert found == dict.fromkeys(addresses, "connected"), namespace
    # The pod in this namespace is older than the allowed pods, so its rules are already in effect.
    refused_there = served.reach(OTHER, *addresses)
    assert "connected" not in refused_there.values(), refused_there


def test_a_namespace_reaches_the_endpoint_after_the_spec_allows_it(served: Served) -> None:
    tuning, pod = served.tuning, served.serving_pod()
    address = f"{pod['status']['podIP']}:8000"
    tuning.change(serving={"allowedNamespaces": [NAMESPACE, NAMED, OTHER]})
    for _ in range(100):
        if served.reach(OTHER, address)[address] == "connected":
            break
    else:
        raise AssertionError(f"{OTHER} was never let in")
    tuning.change(serving={"allowedNamespaces": [NAMESPACE, NAMED]})
    assert served.serving_pod()["metadata"]["uid"] == pod["metadata"]["uid"]


def test_requests_without_the_key_are_refused(served: Served) -> None:
    body = _chat("What is the Debian package tmux?") | {"model": "small"}
    for route, what in (("/v1/models", None), ("/v1/chat/completions", body)):
        assert served.call(NAMED, route, body=what)["status"] == 401, route
        assert served.call(NAMED, route, body=what, key="another")["status"] == 401, route
        assert served.call(NAMED, route, body=what, key=KEY)["status"] == 200, route


def test_the_prompt_of_a_chat_request_equals_the_trained_prompt(served: Served) -> None:
    tuning = served.tuning
    rows = pods.run(
        tuning.cluster,
        NAMESPACE,
        Task(
            script="prompts.py",
            image=tuning.cluster.operator_image(),
            claim=f"small-{tuning.status()['revision']}",
        ),
    )
    assert len(rows) == 5
    for row in rows:
        body = {"model": "small", "messages": row["messages"], "max_tokens": 1}
        answer = served.call(
            NAMED, "/v1/chat/completions", key=KEY, body=body | {"return_token_ids": True}
        )
        assert answer["status"] == 200, answer
        assert answer["body"]["prompt_token_ids"] == row["prompt"]


def test_a_serving_pod_reaches_no_address(served: Served) -> None:
    """Another pod of the namespace reaches the same addresses."""
    cluster = served.tuning.cluster
    api = cluster.kubectl.get("service", "kubernetes", "default")["spec"]["clusterIP"]
    hub = cluster.kubectl.get("service", "hub", "hub")["spec"]["clusterIP"]
    addresses = (f"{api}:443", f"{hub}:80")
    name = served.serving_pod()["metadata"]["name"]
    found = pods.inside(cluster, NAMESPACE, name, "reach.py", *addresses)
    assert served.reach(NAMESPACE, *addresses) == dict.fromkeys(addresses, "connected")
    assert "connected" not in found.values(), found


def test_a_faulty_build_is_never_served(
    served: Served, planted: Candidate, figures: list[str]
) -> None:
    """One of the faults of test_faulty_builds.py."""
    figures.append(f"{FAULT}: {reject(served, planted, FAULT, caller=NAMED)}")


def test_the_correct_build_replaces_the_old_one(
    served: Served, planted: Candidate, figures: list[str]
) -> None:
    """The correct copy of the build is accepted, and no request fails during the rollout."""
    tuning = served.tuning
    with under_load(tuning, key=KEY) as load:
        attempt = planted.serve("none")
        assert attempt["outcome"] == "Completed", attempt
        tuning.wait_until("Ready", seconds=240)
        outcome = load.end()
    figures.append(f"KeepServing: {outcome}")
    assert (outcome.failed, outcome.broken) == ([], [])
    assert outcome.requests > 10
    assert outcome.streams > 1
    assert served.build() == planted.build
    verified = tuning.wait(
        "the status contains the verification",
        lambda now: (
            now["verification"]
            if now.get("verification", {}).get("build") == planted.build
            else None
        ),
        seconds=240,
    )
    figures.append(f"unharmed: {verified}")
    assert verified["outcome"] == "Verified"
    assert float(verified["distance"]) < float(verified["tolerance"])


@pytest.mark.exhaustive
def test_with_one_gpu_requests_fail_only_while_the_next_build_loads(
    served: Served, figures: list[str]
) -> None:
    """Requests fail only during the gap; streams on the old pod end properly.

    tests/integration/test_gpu_rollout.py has the order of these steps without vLLM.
    """
    tuning, old = served.tuning, served.build()
    # Neither the first build nor the planted one, which a run of all tests serves at this point.
    build = {"dtype": "bfloat16", "base": "dequantized"}
    with gpus.only_one(tuning.cluster), under_load(tuning, key=KEY) as load:
        tuning.change(serving={"rollout": "Auto", "releaseAfterSeconds": 5}, merge=build)
        _wait_for_takeover(served, old)
        outcome = load.end()
    figures.append(f"Auto, one GPU: {outcome}")
    assert outcome.broken == []
    assert outcome.failed
    assert [at for at, _ in outcome.failed if at > outcome.gap[1]] == []


def _wait_for_takeover(served: Served, old: str) -> None:
    served.tuning.wait(
        f"another build than {old} answers",
        lambda now: (
            now["serving"].get("build") not in (None, old)
            and (ready := condition(now, "Ready")) is not None
            and ready["status"] == "True"
        ),
        seconds=ROLLOUT_SECONDS,
    )


def _chat(question: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}], "max_tokens": 4}
