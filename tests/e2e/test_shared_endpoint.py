"""One FineTuneEndpoint serves the adapters of two jobs with one vLLM, each under its own name."""

import json
from typing import Any

from tests.support.local_cluster import pods
from tests.support.local_cluster.pods import Task
from tests.support.local_cluster.target import Cluster
from tests.support.local_cluster.tuning import MODEL, Tuning, small

READY_SECONDS = 900.0
ENDPOINT: dict[str, Any] = {
    "model": {"source": MODEL},
    "lora": {"maxAdapters": 2},
    # The defaults are those of a large model; the chart value `defaults` is for jobs only.
    "resources": {
        "prepare": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "6Gi"}},
        "serve": {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"memory": "10Gi"}},
    },
    "storage": {"size": "2Gi"},
}
SHARED = {"mode": "shared", "endpointRef": {"name": "chat"}}


def test_two_jobs_are_served_by_one_endpoint(cluster: Cluster, workspace: str) -> None:
    cluster.kubectl.apply(
        {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneEndpoint",
            "metadata": {"name": "chat", "namespace": workspace},
            "spec": ENDPOINT,
        }
    )
    jobs = [
        Tuning(cluster=cluster, namespace=workspace, name=name).apply(
            small(dataset={"maxSamples": rows}, serving=SHARED)
        )
        for name, rows in (("billing", 16), ("returns", 12))
    ]
    for job in jobs:
        job.wait_until("Ready", reason="Serving", seconds=READY_SECONDS)
        assert job.status()["verification"]["outcome"] == "Verified"
        assert job.status()["serving"]["model"] == job.name
        assert [job.pods(stage) for stage in ("merge", "serve")] == [[], []]

    stay = Task(script="stay.py", image=cluster.operator_image())
    with pods.started(cluster, workspace, stay) as caller:
        asked = [_request(job, model.name) for job in jobs for model in jobs]
        asked.append(_request(jobs[0], "chat-base"))
        *answers, base = pods.inside(cluster, workspace, caller, "call.py", json.dumps(asked))
    assert [each["status"] for each in answers] == [200] * 4, answers
    texts = [each["body"]["choices"][0]["message"]["content"] for each in answers]
    assert texts[:2] == texts[2:], "the Services of both jobs lead to the same endpoint"
    assert texts[0] != texts[1], "each name has its own adapter"
    assert base["status"] == 404, "no name leads to the model without an adapter"


def _request(job: Tuning, model: str) -> dict[str, Any]:
    """Return a request for a model at the Service of a job."""
    return {
        "url": f"{job.status()['endpoint']}/chat/completions",
        "body": {
            "model": model,
            "messages": [{"role": "user", "content": "What is nginx?"}],
            "temperature": 0,
            "max_tokens": 16,
        },
    }
