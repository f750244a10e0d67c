"""Metrics about the FineTuneEndpoints: the GPU-seconds of their pods, in their namespaces."""

from finetune_api.v1alpha1.endpoints.spec import ENDPOINT_KIND
from finetune_operator.objects import endpoints, naming
from finetune_operator.telemetry.gpu_seconds import GPU_SECONDS, GpuSeconds
from finetune_operator.types import EndpointSnapshot, Key, Object, Plan


class EndpointMetrics:
    """The ``Telemetry`` of FineTuneEndpoints."""

    def __init__(self, gpu_seconds: GpuSeconds) -> None:
        self._gpu_seconds = gpu_seconds

    def observed(self, key: Key, snapshot: EndpointSnapshot, status: Object) -> None:
        """Record the serving pods of an endpoint after a reconcile."""
        serving = (
            pod for pod in snapshot.pods if naming.label(pod, naming.STAGE) == endpoints.SERVING
        )
        self._gpu_seconds.hold((ENDPOINT_KIND, *key), serving)

    def written(self, snapshot: EndpointSnapshot, plan: Plan) -> None:
        """Count nothing."""

    def forget(self, key: Key) -> None:
        """Forget an endpoint that was deleted, or that another replica reconciles."""
        self._gpu_seconds.release((ENDPOINT_KIND, *key))


ENDPOINT_METRICS = EndpointMetrics(GPU_SECONDS)
