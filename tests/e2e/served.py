"""A serving job that several tests share, and the pods that call its endpoint."""

import json
from dataclasses import dataclass
from typing import Any

from tests.e2e import pods
from tests.e2e.kubectl import Object
from tests.e2e.tuning import Tuning

NAMESPACE = "e2e-serving"
"""The namespace of the job."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """The serving job, and a pod in each of three namespaces."""

    tuning: Tuning
    previous: str
    """Build of the previous revision, which was merged but never served."""
    callers: dict[str, str]

    def build(self) -> str:
        """Return the build that the Service selects."""
        return str(self.tuning.status()["serving"]["build"])

    def serving_pod(self) -> Object:
        """Return the serving pod."""
        build = self.build()
        (pod,) = [
            pod
            for pod in self.tuning.cluster.record.present("Pod", NAMESPACE)
            if pod["metadata"].get("labels", {}).get("finetune.dev/build") == build
            and pod["metadata"]["labels"]["finetune.dev/stage"] == "serve"
        ]
        return pod

    def reach(self, namespace: str, *addresses: str) -> Any:
        """Try TCP connections from a namespace."""
        return pods.inside(
            self.tuning.cluster, namespace, self.callers[namespace], "reach.py", *addresses
        )

    def call(self, namespace: str, route: str, *, key: str = "", body: Any = None) -> Any:
        """Send one request through the Service from a namespace."""
        url = self.tuning.status()["endpoint"].removesuffix("/v1") + route
        asked = {"url": url, "key": key} | ({} if body is None else {"body": body})
        (answer,) = pods.inside(
            self.tuning.cluster,
            namespace,
            self.callers[namespace],
            "call.py",
            json.dumps([asked]),
        )
        return answer
