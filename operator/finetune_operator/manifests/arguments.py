"""Command-line arguments of the trainer that differ between the stages."""

from finetune_operator.manifests import egress, placement
from finetune_operator.manifests.node_labels import versions_of
from finetune_operator.objects.stages import Stage
from finetune_operator.revisions.target import TargetRevision


def of_stage(
    target: TargetRevision, stage: Stage, gpu_seconds_lost: int, largest_activation: int | None
) -> list[str]:
    """Return the arguments of a stage, besides those that all stages have."""
    spec = target.resolved.spec
    if stage == "prepare":
        return of_prepare(target)
    if stage == "train" and spec.run_policy.max_gpu_seconds is not None:
        left = max(0, spec.run_policy.max_gpu_seconds - gpu_seconds_lost)
        return ["--max-gpu-seconds", str(left)]
    if stage == "merge":
        arguments = ["--build", target.build, "--dtype", spec.merge.dtype]
        if spec.merge.dtype == "auto" and largest_activation is not None:
            arguments += ["--largest-activation", str(largest_activation)]
        return [*arguments, "--base", spec.merge.base]
    return []


def of_prepare(target: TargetRevision) -> list[str]:
    """Return the arguments of prepare: the estimate, allowed destinations and trusted CAs.

    They are not in job.json, which is frozen: a job that was rejected is attempted again after its
    cards, its context length, its volume, its resources, or the chart's values for egress, proxy
    and CA certificates have changed.
    """
    cloud_identity = target.resolved.spec.access.service_account_name is not None
    allowed = egress.destinations_text(target.config, cloud_identity=cloud_identity)
    arguments = [*_estimate_arguments(target), "--destinations", allowed]
    if certificates := target.config.ca_certificates:
        arguments += ["--ca-certificates", certificates]
    return arguments


def _estimate_arguments(target: TargetRevision) -> list[str]:
    spec = target.resolved.spec
    serving, arguments = spec.serving, []
    for card in placement.cards(target.config.gpu, target.resolved):
        arguments += ["--card", card]
    for option, value in versions_of(spec.placement.node_selector or {}).items():
        arguments += [option, value]
    if serving.enabled:
        arguments += ["--serving-share", str(serving.gpu_memory_utilization)]
        if serving.max_model_len is not None:
            arguments += ["--serving-length", str(serving.max_model_len)]
        written = spec.merge.dtype if serving.mode == "merged" else serving.dtype
        dtype = target.config.serving.dtype or written
        if dtype != "auto":
            arguments += ["--serving-dtype", dtype]
    arguments += ["--volume-size", spec.storage.size]
    train_memory = (spec.resources.train.limits or {}).get("memory")
    if train_memory is not None:
        arguments += ["--train-memory", train_memory]
    from_adapter = serving.enabled and serving.mode == "adapter"
    merges = spec.merge.enabled and not from_adapter
    return arguments if merges else [*arguments, "--no-merge"]
