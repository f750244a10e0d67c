"""Metrics about the FineTuneEndpoints: their state."""

from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.objects import conditions
from finetune_operator.telemetry.job_metrics import NAMESPACE
from finetune_operator.telemetry.metrics import REGISTRY
from finetune_operator.types import EndpointSnapshot, Key, Object, Plan


class EndpointMetrics(Collector):
    """Endpoints by namespace and by the reason of their condition Ready."""

    def __init__(self) -> None:
        self._reasons: dict[Key, str] = {}

    def observed(self, key: Key, snapshot: EndpointSnapshot, status: Object) -> None:
        """Record the state of an endpoint after a reconcile."""
        ready = conditions.get({"status": status}, "Ready")
        self._reasons[key] = str(ready.get("reason", Reason.PENDING))

    def written(self, snapshot: EndpointSnapshot, plan: Plan) -> None:
        """Count nothing: a gauge has the present state."""

    def forget(self, key: Key) -> None:
        """Forget an endpoint."""
        self._reasons.pop(key, None)

    def collect(self) -> Iterable[Metric]:
        """Return the metric, for prometheus-client."""
        endpoints = GaugeMetricFamily(
            "finetune_endpoints",
            "Number of FineTuneEndpoints, by namespace and by the reason of their Ready condition.",
            labels=[NAMESPACE, "reason"],
        )
        counts = Counter((key[0], reason) for key, reason in self._reasons.items())
        for labels, count in sorted(counts.items()):
            endpoints.add_metric(labels, count)
        return [endpoints]


ENDPOINT_METRICS = EndpointMetrics()
REGISTRY.register(ENDPOINT_METRICS)
