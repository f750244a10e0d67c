"""A FineTuneEndpoint that shares budgets with jobs, its Deployment and its pods."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tests.support.reconcile.endpoint_world import World as EndpointWorld

from finetune_operator.objects import endpoints, naming
from finetune_operator.objects.jobs import pod_has_ended
from finetune_operator.types import Key

Thing = dict[str, Any]


@dataclass(kw_only=True)
class SharedEndpoint(EndpointWorld):
    """An endpoint without models; it may be deleted, and created again with another uid."""

    versions: Iterator[int]
    exists: bool = True

    def __post_init__(self) -> None:
        self._identify()

    @property
    def key(self) -> Key:
        return "ns", self.name

    @property
    def gpus(self) -> int:
        """Return the number of pods that its Deployment should have."""
        return 0 if self.deployment is None else int(self.deployment["spec"]["replicas"])

    def parts(self) -> Iterator[Thing]:
        """Yield the endpoint, its Deployment, and its pods with a GPU."""
        yield from [self.endpoint] if self.exists else []
        yield from [] if self.deployment is None else [self.deployment]
        yield from self.serving()

    # The team.

    def delete(self) -> None:
        """Delete the endpoint at once; its pods are terminated later."""
        self.exists, self.objects = False, {}

    def create(self) -> None:
        """Create the endpoint again."""
        self.exists, self.endpoint["status"] = True, {}
        self._identify()

    def _identify(self) -> None:
        uid = f"uid-of-endpoint-{next(self.versions)}"
        self.endpoint["metadata"] |= {"namespace": "ns", "uid": uid}
        self._touch(self.endpoint)

    # The operator.

    def reconcile(self, crash: int | None = None) -> None:
        """Execute the next plan. crash: number of actions after which the operator crashes."""
        plan = self.plan()
        self.execute(replace(plan, actions=plan.actions[:crash]))
        for thing in (self.endpoint, *self.objects.values()):
            self._touch(thing)

    # The cluster.

    def work(self, *, reports: bool = True) -> None:
        """Let controllers and kubelet act once.

        reports: whether a terminated pod exists until the operator has observed its end.
        """
        base = [thing for (kind, _), thing in self.objects.items() if kind == "Job"]
        if base and "status" not in base[-1]:
            self.end_base()
        pods = self.serving()
        for pod in pods:
            if pod_has_ended(pod) or ("deletionTimestamp" in pod["metadata"] and not reports):
                self.pods.remove(pod)
            elif "deletionTimestamp" in pod["metadata"]:
                self._end(pod)
            elif pod["status"]["phase"] == "Pending":
                self._start(pod)
        if len(pods) > self.gpus:
            for pod in pods:
                pod["metadata"]["deletionTimestamp"] = self._stamp()
                self._touch(pod)
        elif self.deployment is not None and len(pods) < self.gpus:
            self._add_pod(self.deployment)

    def lose(self) -> None:
        """Remove a pod whose node is gone, without a report of its end."""
        for pod in self.serving():
            self.pods.remove(pod)

    def serving(self) -> list[Thing]:
        """Return the pods with a GPU."""
        return [pod for pod in self.pods if naming.label(pod, naming.STAGE) == endpoints.SERVING]

    def _add_pod(self, deployment: Thing) -> None:
        template, number = deployment["spec"]["template"], next(self.versions)
        owner = {"kind": "ReplicaSet", "name": f"{deployment['metadata']['name']}-1"}
        pod: Thing = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{owner['name']}-{number}",
                "namespace": "ns",
                "uid": f"pod-of-endpoint-{number}",
                "creationTimestamp": self._stamp(),
                "labels": {**template["metadata"]["labels"], naming.TEMPLATE_HASH: "1"},
                "ownerReferences": [
                    {**owner, "uid": deployment["metadata"]["uid"], "controller": True}
                ],
            },
            "spec": template["spec"],
            "status": {"phase": "Pending"},
        }
        self._touch(pod)
        self.pods.append(pod)

    def _start(self, pod: Thing) -> None:
        scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": self._stamp()}
        pod["spec"] = {**pod["spec"], "nodeName": "node-1"}
        self._report(pod, "Running", {"running": {}}, conditions=[scheduled])

    def _end(self, pod: Thing) -> None:
        ended = {"terminated": {"exitCode": 0, "finishedAt": self._stamp()}}
        self._report(pod, "Succeeded", ended)

    def _report(self, pod: Thing, phase: str, state: Thing, **status: Any) -> None:
        """Let the kubelet report the state of all containers of a pod."""
        containers = [
            {"name": container["name"], "state": state} for container in pod["spec"]["containers"]
        ]
        pod["status"] |= {"phase": phase, "containerStatuses": containers, **status}
        self._touch(pod)

    def _touch(self, thing: Thing) -> None:
        thing["metadata"]["resourceVersion"] = str(next(self.versions))

    def _stamp(self) -> str:
        return self.now.strftime("%Y-%m-%dT%H:%M:%SZ")
