"""The recorder of usage, which writes FineTuneUsages. Nobody watches these."""

from finetune_operator.controller.usage import UsageRecorder
from finetune_operator.kinds.context import Context
from finetune_operator.snapshot.gpu_usage import GpuUsage
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.telemetry.usage_metrics import USAGE_METRICS


def recorder(context: Context, jobs: ObjectStore, endpoints: ObjectStore) -> UsageRecorder | None:
    """Return the recorder, whose totals are metrics, too; None if usage is not recorded."""
    if not context.config.usage.enabled:
        return None
    pods = GpuUsage(
        kube=context.kube,
        store=jobs,
        endpoints=endpoints,
        resource=context.settings.gpu.resource_name,
        clock=context.kube.transport.clock.now,
    )
    usage_recorder = UsageRecorder(pods=pods)
    USAGE_METRICS.source = usage_recorder.usage
    return usage_recorder
