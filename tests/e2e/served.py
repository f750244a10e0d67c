"""A serving job that several tests share, and the pods that call its endpoint."""

import json
from dataclasses import dataclass
from typing import Any

from tests.support.local_cluster import pods
from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.tuning import DEMO_MODEL, Tuning, small

KEY = "only-for-this-test"
"""The API key of the endpoint."""
SPEC = small(
    # The faults are found by the scores of a model that has learned.
    model={"source": DEMO_MODEL},
    merge={"dtype": "bfloat16"},
    serving={"apiKeySecretRef": {"name": "endpoint", "key": "key"}},
    storage={"size": "4Gi"},
)


def key_secret(namespace: str) -> Object:
    """Return the Secret with the API key of the endpoint."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "endpoint", "namespace": namespace},
        "stringData": {"key": KEY},
    }


@dataclass(frozen=True, kw_only=True)
class Served:
    """The serving job, and a pod in each namespace of its callers."""

    tuning: Tuning
    callers: dict[str, str]

    def build(self) -> str:
        """Return the build that the Service selects."""
        return str(self.tuning.status()["serving"]["build"])

    def serving_pod(self) -> Object:
        """Return the serving pod."""
        build = self.build()
        (pod,) = [
            pod
            for pod in self.tuning.cluster.record.present("Pod", self.tuning.namespace)
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
