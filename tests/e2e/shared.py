"""A FineTuneEndpoint, the jobs whose adapters it serves, and a pod that calls them."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.local_cluster import pods
from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.pods import Task
from tests.support.local_cluster.target import Cluster
from tests.support.local_cluster.tuning import MODEL, STAGE, Tuning, label

from cluster.components import containers

ENDPOINT = "chat"
SECONDS = 900.0
SHARED = {"mode": "shared", "endpointRef": {"name": ENDPOINT}}
"""``spec.serving`` of the jobs."""
REQUEST: Object = {
    "messages": [{"role": "user", "content": "What is nginx?"}],
    "temperature": 0,
    "max_tokens": 16,
}
"""Body of a request, without the name of a model."""
RESOURCES: Object = {
    "prepare": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "6Gi"}},
    "serve": {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"memory": "10Gi"}},
}
"""The defaults are those of a large model; the chart value ``defaults`` is for jobs only."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """The jobs of an endpoint by name. ``caller``: the pod that calls them."""

    cluster: Cluster
    namespace: str
    jobs: Mapping[str, Tuning]
    caller: str

    def pod(self) -> Object:
        """Return the pod of the endpoint."""
        (pod,) = self.cluster.record.present(
            "Pod", self.namespace, lambda pod: label(pod, STAGE) == "serve-shared"
        )
        return pod

    def kill_vllm(self) -> None:
        """Kill vLLM, so that the kubelet starts it again in the same pod."""
        (vllm,) = (
            each for each in self.pod()["status"]["containerStatuses"] if each["name"] == "vllm"
        )
        number = vllm["containerID"].partition("://")[2]
        containers.ctr("task", "kill", "--signal", "SIGKILL", number)
        for job in self.jobs.values():
            job.wait_until("Ready", status="False", seconds=SECONDS)

    def models(self) -> dict[str, Object]:
        """Return the entries in the status of the endpoint by the names of the models."""
        endpoint = self.cluster.kubectl.get("finetuneendpoint", ENDPOINT, self.namespace)
        return {each["name"]: each for each in endpoint["status"]["models"]}

    def ask(self, job: str, *models: str) -> list[tuple[int, str]]:
        """Send a request for each model to the Service of a job; return status and text."""
        url = f"{self.jobs[job].status()['endpoint']}/chat/completions"
        asked = json.dumps([{"url": url, "body": {**REQUEST, "model": model}} for model in models])
        answers = pods.inside(self.cluster, self.namespace, self.caller, "call.py", asked)
        return [(each["status"], _text(each["body"])) for each in answers]


@contextmanager
def sharing(cluster: Cluster, namespace: str, specs: Mapping[str, Object]) -> Iterator[Shared]:
    """Create an endpoint with as many places as jobs, and yield it once it serves all of them."""
    cluster.kubectl.apply(
        {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneEndpoint",
            "metadata": {"name": ENDPOINT, "namespace": namespace},
            "spec": {
                "model": {"source": MODEL},
                "lora": {"maxAdapters": len(specs)},
                "resources": RESOURCES,
                "storage": {"size": "2Gi"},
            },
        }
    )
    jobs = {
        name: Tuning(cluster=cluster, namespace=namespace, name=name).apply(spec)
        for name, spec in specs.items()
    }
    stay = Task(script="stay.py", image=cluster.operator_image())
    with pods.started(cluster, namespace, stay) as name:
        for job in jobs.values():
            job.wait_until("Ready", reason="Serving", seconds=SECONDS)
        yield Shared(cluster=cluster, namespace=namespace, jobs=jobs, caller=name)


def _text(body: Any) -> str:
    """Return the text of an answer, or the body of an error."""
    return str(body["choices"][0]["message"]["content"] if "choices" in body else body)
