"""What a job produces: a merged model, serving pods of its own, or an adapter for others. Pure."""

from finetune_api.v1alpha1.serving import SHARED
from finetune_api.v1alpha1.spec import FineTuneJobSpec


def merges(spec: FineTuneJobSpec) -> bool:
    """Report whether a job makes a merged model."""
    from_adapter = spec.serving.enabled and spec.serving.mode in ("adapter", SHARED)
    return spec.merge.enabled and not from_adapter


def shares(spec: FineTuneJobSpec) -> bool:
    """Report whether a FineTuneEndpoint serves the adapter of a job."""
    return spec.serving.enabled and spec.serving.mode == SHARED


def serves(spec: FineTuneJobSpec) -> bool:
    """Report whether a job should have serving pods of its own."""
    return spec.serving.enabled and not shares(spec) and spec.serving.replicas > 0
