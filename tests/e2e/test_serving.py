"""A serving job: allowed callers, rollout of builds, and rejection of faulty builds.

All tests of this file use one job, in this order, because each build is another edit of the job.
The job is trained twice before it serves, so that there is a previous revision.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e import gpus, pods
from tests.e2e.loading import under_load
from tests.e2e.planting import FOUND_BY, SCORES, Candidate, candidate, refused
from tests.e2e.pods import Task
from tests.e2e.served import NAMESPACE, Served
from tests.e2e.target import Cluster, namespaces
from tests.e2e.tuning import DEMO_MODEL, Tuning, condition, small

NAMED, OTHER = "e2e-serving-named", "e2e-serving-other"
KEY = "only-for-this-test"
MADE_SECONDS, READY_SECONDS, ROLLOUT_SECONDS = 900.0, 900.0, 900.0
SPEC = small(
    # The faults are found by the scores of a model that has learned.
    model={"source": DEMO_MODEL},
    training={"seed": 1},
    merge={"dtype": "bfloat16"},
    serving={
        "apiKeySecretRef": {"name": "endpoint", "key": "key"},
        "allowedNamespaces": [NAMESPACE, NAMED],
        "enabled": False,
    },
    storage={"size": "4Gi"},
)


@pytest.fixture(scope="module")
def served(cluster: Cluster) -> Iterator[Served]:
    """The job after it became Ready for the first time."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "endpoint", "namespace": NAMESPACE},
        "stringData": {"key": KEY},
    }
    stay = Task(script="stay.py", image=cluster.operator_image())
    with namespaces(cluster, NAMESPACE, NAMED, OTHER):
        cluster.kubectl.apply(secret)
        tuning = Tuning(cluster=cluster, namespace=NAMESPACE, name="small").apply(SPEC)
        with (
            pods.started(cluster, OTHER, stay) as other,
            pods.started(cluster, NAMED, stay) as named,
            pods.started(cluster, NAMESPACE, stay) as own,
        ):
            tuning.wait_until("Ready", reason="Completed", seconds=MADE_SECONDS)
            previous = tuning.status()["build"]
            tuning.change(training={"seed": 2}, serving={"enabled": True})
            tuning.wait_until("Ready", reason="Serving", seconds=READY_SECONDS)
            yield Served(
                tuning=tuning,
                previous=previous,
                callers={OTHER: other, NAMED: named, NAMESPACE: own},
            )


@pytest.fixture(scope="module")
def planted(served: Served) -> Iterator[Candidate]:
    """A build whose serving attempts each have a different fault."""
    tuning = served.tuning
    build = {"dtype": "float16", "base": "dequantized"}
    with candidate(tuning, previous=served.previous, **build) as found:
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


@pytest.mark.parametrize("fault", FOUND_BY)
def test_a_faulty_build_is_never_served(
    served: Served, planted: Candidate, fault: str, figures: list[str]
) -> None:
    tuning, serves = served.tuning, served.build()
    attempt = planted.serve(fault)
    number = attempt["attempt"]
    assert (attempt["outcome"], attempt["reason"]) == ("Failed", "VerificationFailed"), attempt
    message = attempt["message"]
    figures.append(f"{fault}: {message}")
    assert FOUND_BY[fault] in message
    if FOUND_BY[fault] == SCORES:
        distance, tolerance = _numbers(message)
        assert distance > tolerance > 0
    # The watch of the pods can be later than that of the jobs, and the kubelet can restart the
    # container before the operator deletes the pod.
    (code, said), *_ = tuning.cluster.record.wait(
        "the container has ended", lambda: planted.exits(number) or None, seconds=240
    )
    assert code == 83
    result = json.loads(said)
    assert (result["reason"], result["message"]) == ("VerificationFailed", message)
    assert not planted.was_ready(number)
    # The old build keeps serving, and the job reports the failure.
    reported = tuning.wait(
        "Ready reports the failure", lambda _: refused(tuning), seconds=240, stalls=True
    )
    assert message in reported
    assert served.build() == serves
    available = condition(tuning.status(), "Serving")
    assert available is not None
    assert available["status"] == "True"
    assert served.call(NAMED, "/v1/models", key=KEY)["status"] == 200


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


def test_with_one_gpu_requests_fail_only_while_the_next_build_loads(
    served: Served, planted: Candidate, figures: list[str]
) -> None:
    """Requests fail only during the gap; streams on the old pod end properly."""
    tuning, old = served.tuning, served.build()
    with gpus.only_one(tuning.cluster), under_load(tuning, key=KEY) as load:
        tuning.change(
            serving={"rollout": "Auto", "releaseAfterSeconds": 5}, merge={"dtype": "bfloat16"}
        )
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


def _numbers(message: str) -> tuple[float, float]:
    """Return distance and tolerance of a message."""
    found = re.search(r"reference is (\S+) nats over .*tolerance is (\S+) nats;", message)
    assert found is not None, message
    distance, tolerance = float(found[1]), float(found[2])
    assert math.isfinite(distance)
    return distance, tolerance
