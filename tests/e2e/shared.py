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
OF_ENDPOINT = "finetune.dev/endpoint"
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

    def pod(self, endpoint: str = ENDPOINT) -> Object:
        """Return the pod of the endpoint."""

        def serves(pod: Object) -> bool:
            return (label(pod, OF_ENDPOINT), label(pod, STAGE)) == (endpoint, "serve-shared")

        (pod,) = self.cluster.record.present("Pod", self.namespace, serves)
        return pod

    def folders(self, endpoint: str = ENDPOINT) -> set[str]:
        """Return the folders of jobs on the volume of an endpoint, which are the UIDs of jobs."""
        pod = self.pod(endpoint)["metadata"]["name"]
        done = self.cluster.kubectl.execute(
            pod, self.namespace, ["ls", "/claim/jobs"], container="gate"
        )
        assert done.returncode == 0, done.stderr
        return set(done.stdout.split())

    def kill_vllm(self) -> None:
        """Kill vLLM, so that the kubelet starts it again in the same pod."""
        (vllm,) = (
            each for each in self.pod()["status"]["containerStatuses"] if each["name"] == "vllm"
        )
        number = vllm["containerID"].partition("://")[2]
        containers.ctr("task", "kill", "--signal", "SIGKILL", number)
        for job in self.jobs.values():
            job.wait_until("Ready", status="False", seconds=SECONDS)

    def endpoint(self, name: str = ENDPOINT) -> Object:
        """Return an endpoint."""
        return self.cluster.kubectl.get("finetuneendpoint", name, self.namespace)

    def models(self, endpoint: str = ENDPOINT) -> dict[str, Object]:
        """Return the entries in the status of an endpoint by the names of the models."""
        return {each["name"]: each for each in self.endpoint(endpoint)["status"].get("models", ())}

    def ask(self, job: str, *models: str, request: Object = REQUEST) -> list[tuple[int, str]]:
        """Send a request for each model to the Service of a job; return status and text."""
        url = f"{self.jobs[job].status()['endpoint']}/chat/completions"
        asked = json.dumps([{"url": url, "body": {**request, "model": model}} for model in models])
        answers = pods.inside(self.cluster, self.namespace, self.caller, "call.py", asked)
        return [(each["status"], _text(each["body"])) for each in answers]


def apply_endpoint(
    cluster: Cluster, namespace: str, name: str = ENDPOINT, *, places: int, **spec: Any
) -> None:
    """Apply an endpoint with this number of places. ``spec``: further fields."""
    cluster.kubectl.apply(
        {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneEndpoint",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "model": {"source": MODEL},
                "lora": {"maxAdapters": places},
                "resources": RESOURCES,
                "storage": {"size": "2Gi"},
                **spec,
            },
        }
    )


@contextmanager
def sharing(cluster: Cluster, namespace: str, specs: Mapping[str, Object]) -> Iterator[Shared]:
    """Create an endpoint with as many places as jobs, and yield it once it serves all of them."""
    apply_endpoint(cluster, namespace, places=len(specs))
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
