"""Metrics about the FineTuneEndpoints: their state, and the GPU-seconds of their pods."""

from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from finetune_api.v1alpha1.endpoints.spec import ENDPOINT_KIND
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.objects import conditions, endpoints, naming
from finetune_operator.telemetry.gpu_seconds import GPU_SECONDS, NAMESPACE, GpuSeconds
from finetune_operator.telemetry.metrics import REGISTRY
from finetune_operator.types import EndpointSnapshot, Key, Object, Plan


class EndpointMetrics(Collector):
    """The ``Telemetry`` of FineTuneEndpoints, counted by their reasons of the condition Ready."""

    def __init__(self, gpu_seconds: GpuSeconds) -> None:
        self._gpu_seconds = gpu_seconds
        self._reasons: dict[Key, str] = {}

    def observed(self, key: Key, snapshot: EndpointSnapshot, status: Object) -> None:
        """Record the state and the serving pods of an endpoint after a reconcile."""
        ready = conditions.get({"status": status}, "Ready")
        self._reasons[key] = str(ready.get("reason", Reason.PENDING))
        serving = (
            pod for pod in snapshot.pods if naming.label(pod, naming.STAGE) == endpoints.SERVING
        )
        self._gpu_seconds.hold((ENDPOINT_KIND, *key), serving)

    def written(self, snapshot: EndpointSnapshot, plan: Plan) -> None:
        """Count nothing."""

    def forget(self, key: Key) -> None:
        """Forget an endpoint that was deleted, or that another replica reconciles."""
        self._reasons.pop(key, None)
        self._gpu_seconds.release((ENDPOINT_KIND, *key))

    def collect(self) -> Iterable[Metric]:
        """Return the number of endpoints, for prometheus-client."""
        counted = GaugeMetricFamily(
            "finetune_endpoints",
            "Number of FineTuneEndpoints, by namespace and by the reason of their Ready condition.",
            labels=[NAMESPACE, "reason"],
        )
        counts = Counter((key[0], reason) for key, reason in self._reasons.items())
        for labels, count in sorted(counts.items()):
            counted.add_metric(labels, count)
        return [counted]


ENDPOINT_METRICS = EndpointMetrics(GPU_SECONDS)
REGISTRY.register(ENDPOINT_METRICS)
