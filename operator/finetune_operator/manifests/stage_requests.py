"""The requests of the stages, and the arguments in which the trainer of a revision reads them."""

from typing import Any

from finetune_api.contracts.stage_request import (
    MergeStageRequest,
    PrepareStageRequest,
    ServingSettings,
    StageRequest,
    TrainStageRequest,
)
from finetune_api.v1alpha1.ledger import Revision
from finetune_operator.manifests import argv_v1, egress, placement
from finetune_operator.manifests.node_labels import versions_of
from finetune_operator.objects.stages import JobStage, earlier
from finetune_operator.revisions.documents import JOB_FILE
from finetune_operator.revisions.target import TargetRevision

WORK = "/work"
CONFIG = "/etc/finetune"


def arguments(target: TargetRevision, stage: JobStage, record: Revision) -> list[str]:
    """Return the arguments of the container of a stage.

    record: of the revision in the ledger, with the results of the earlier stages.
    """
    request = _request(target, stage, record)
    return argv_v1.words(request) if target.contract == 1 else [request.to_argument()]


def retried(target: TargetRevision) -> list[str]:
    """Return the arguments of prepare whose change retries it after a failure.

    They are not in job.json, which is frozen: a job that was rejected is attempted again after its
    cards, its context length, its volume, its resources, or the chart's values for egress, proxy
    and CA certificates have changed.
    """
    request = _prepare(target)
    return argv_v1.of_prepare(request) if target.contract == 1 else [request.to_argument()]


def _request(target: TargetRevision, stage: JobStage, record: Revision) -> StageRequest:
    if stage.reads_sources:
        return _prepare(target, untrusted_volume=record.untrusted_volume is not None)
    spec, artifacts = target.resolved.spec, record.artifacts
    before = {each.name for each in earlier(stage)}
    results: dict[str, Any] = {
        # No manifest has an empty digest.
        "base_manifest": artifacts.base_manifest or "",
        "images": {
            attempt.stage: attempt.image_id
            for attempt in record.stages
            if attempt.stage in before and attempt.image_id is not None
        },
    }
    if stage.gpu:
        limit = spec.run_policy.max_gpu_seconds
        # The trainer cannot read the GPU time on volumes that no longer exist.
        lost = record.gpu_seconds_lost or 0
        return TrainStageRequest(
            **_common(target),
            **results,
            dataset_manifest=artifacts.dataset_manifest or "",
            max_gpu_seconds=None if limit is None else max(0, limit - lost),
        )
    automatic = spec.merge.dtype == "auto"
    return MergeStageRequest(
        **_common(target),
        **results,
        adapter_manifest=artifacts.adapter_manifest or "",
        build=target.build,
        dtype=spec.merge.dtype,
        base=spec.merge.base,
        largest_activation=artifacts.largest_activation if automatic else None,
    )


def _prepare(target: TargetRevision, *, untrusted_volume: bool = False) -> PrepareStageRequest:
    spec, config = target.resolved.spec, target.config
    serving = spec.serving
    driver, compute_capability = versions_of(spec.placement.node_selector or {})
    cloud_identity = spec.access.service_account_name is not None
    return PrepareStageRequest(
        **_common(target),
        cards=tuple(placement.cards(config.gpu, target.resolved)),
        driver=driver,
        compute_capability=compute_capability,
        serving=ServingSettings.of(spec, dtype=config.serving.dtype),
        merges=spec.merge.enabled and not (serving.enabled and serving.mode == "adapter"),
        volume_size=spec.storage.size,
        train_memory=(spec.resources.train.limits or {}).get("memory"),
        untrusted_volume=untrusted_volume,
        destinations=egress.destinations(config, cloud_identity=cloud_identity),
        ca_certificates=config.ca_certificates,
    )


def _common(target: TargetRevision) -> dict[str, Any]:
    return {
        "config": f"{CONFIG}/{JOB_FILE}",
        "config_digest": target.frozen.job_digest,
        "work": WORK,
    }
