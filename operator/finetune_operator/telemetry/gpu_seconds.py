"""GPU-seconds by namespace and purpose, of jobs and of FineTuneEndpoints.

GPU-seconds of training are reported by the trainers, over all attempts. GPU-seconds of serving are
the time for which serving pods are assigned to a node, and hold one GPU each. Counters start at
zero with the process.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from finetune_operator.objects.jobs import pod_has_ended
from finetune_operator.telemetry.metrics import REGISTRY
from finetune_operator.types import Object

NAMESPACE = "job_namespace"
"""Label with the namespace of a job. Prometheus names the namespace of the scraped pod
``namespace``, and would rename our label to ``exported_namespace``."""
Holder = tuple[str, str, str]
"""Kind, namespace and name of a FineTuneJob or a FineTuneEndpoint."""


@dataclass(slots=True, kw_only=True)
class _Serving:
    """GPUs of the serving pods of a holder, and the time up to which they are counted."""

    gpus: int
    at: float


class GpuSeconds(Collector):
    """The sums, and the GPUs that serving pods hold now."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._holders: dict[Holder, _Serving] = {}
        self._sums: dict[tuple[str, str], float] = {}

    def add(self, namespace: str, purpose: str, seconds: float) -> None:
        """Add GPU-seconds."""
        total = self._sums.get((namespace, purpose), 0.0)
        self._sums[namespace, purpose] = total + seconds

    def hold(self, holder: Holder, pods: Iterable[Object]) -> None:
        """Record the serving pods of a holder, after accounting for those that it had."""
        self.release(holder)
        gpus = sum(map(_holds_gpu, pods))
        self._holders[holder] = _Serving(gpus=gpus, at=self._clock())

    def release(self, holder: Holder) -> None:
        """Forget a holder, after accounting for the time since its pods were recorded."""
        if (serving := self._holders.pop(holder, None)) is not None:
            self._account(holder, serving)

    def collect(self) -> Iterable[Metric]:
        """Return the metric, for prometheus-client."""
        for holder, serving in self._holders.items():
            self._account(holder, serving)
        seconds = CounterMetricFamily(
            "finetune_gpu_seconds",
            "Total number of used GPU-seconds, by namespace and purpose (training or serving).",
            labels=[NAMESPACE, "purpose"],
        )
        for labels, total in sorted(self._sums.items()):
            seconds.add_metric(labels, total)
        return [seconds]

    def _account(self, holder: Holder, serving: _Serving) -> None:
        """Add the GPU-seconds of a holder up to now."""
        if serving.gpus:
            now = self._clock()
            self.add(holder[1], "serving", serving.gpus * (now - serving.at))
            serving.at = now


def _holds_gpu(pod: Object) -> bool:
    return bool(pod.get("spec", {}).get("nodeName")) and not pod_has_ended(pod)


GPU_SECONDS = GpuSeconds()
REGISTRY.register(GPU_SECONDS)
