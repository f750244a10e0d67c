"""Metrics of FineTuneEndpoints: those that are not ready can be alerted on."""

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from tests.fakes.apiserver import CONFIG

from finetune_operator.telemetry.endpoint_metrics import EndpointMetrics
from finetune_operator.telemetry.gpu_seconds import GpuSeconds
from finetune_operator.types import EndpointSnapshot, Object


def test_endpoints_are_counted_by_namespace_and_reason_until_they_are_forgotten() -> None:
    metrics, registry = EndpointMetrics(GpuSeconds()), CollectorRegistry()
    registry.register(metrics)
    snapshot = EndpointSnapshot(endpoint={}, settings=CONFIG)

    def status(reason: str) -> Object:
        return {"conditions": [{"type": "Ready", "status": "False", "reason": reason}]}

    metrics.observed(("a", "chat"), snapshot, status("Starting"))
    metrics.observed(("a", "chat"), snapshot, status("CrashLoopBackOff"))
    metrics.observed(("b", "chat"), snapshot, {})
    text = generate_latest(registry).decode()
    assert 'finetune_endpoints{job_namespace="a",reason="CrashLoopBackOff"} 1.0' in text
    assert 'finetune_endpoints{job_namespace="b",reason="Pending"} 1.0' in text
    assert "Starting" not in text
    metrics.forget(("a", "chat"))
    assert "CrashLoopBackOff" not in generate_latest(registry).decode()
