"""The requests of the stages, and the arguments in which the trainer of a revision reads them."""

from collections.abc import Collection, Mapping
from typing import Any

from finetune_api.contracts.stage_request import (
    MergeStageRequest,
    PrepareStageRequest,
    PublishStageRequest,
    ServingSettings,
    StageRequest,
    TrainStageRequest,
)
from finetune_api.v1alpha1.publishing.targets import PublishTarget
from finetune_api.v1alpha1.status.ledger import Revision
from finetune_operator.manifests import argv_v1, egress, sources
from finetune_operator.manifests.gpu import products
from finetune_operator.manifests.gpu.node_labels import versions_of
from finetune_operator.manifests.publishing import access as publishing
from finetune_operator.objects.stages import PIPELINE, JobStage, desired, earlier
from finetune_operator.revisions.cost import limit_of
from finetune_operator.revisions.documents import JOB_FILE
from finetune_operator.revisions.publishing import publications
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object

WORK = "/work"
CONFIG = "/etc/finetune"
ONE_LIMIT_BEFORE = 3
"""Version of the contract from which images know several limits on hosts."""


def arguments(
    job: Object,
    target: TargetRevision,
    stage: JobStage,
    record: Revision,
    published: Mapping[str, str],
) -> list[str]:
    """Return the arguments of the container of a stage.

    record: of the revision in the ledger, with the results of the earlier stages; published: for a
    stage that publishes.
    """
    if stage.publishes:
        # Version 1 of the contract has no such stage: the image says that it is too old.
        return [_argument(_publish(job, target, record, published), target)]
    request = _request(target, stage, record)
    return argv_v1.words(request) if target.contract == 1 else [_argument(request, target)]


def retried(target: TargetRevision) -> list[str]:
    """Return the arguments of prepare whose change retries it after a failure.

    They are not in job.json, which is frozen: a job that was rejected is attempted again after its
    cards, its context length, its volume, its resources, or the chart's values for egress, proxy
    and CA certificates have changed.
    """
    request = _prepare(target)
    return argv_v1.of_prepare(request) if target.contract == 1 else [_argument(request, target)]


def retried_publishing(target: TargetRevision) -> list[Any]:
    """Return the values whose change publishes again after a failure.

    As in ``retried``, they include those of the chart that decide whether a connection succeeds.
    """
    identity, config = publishing.connections(target, target.config)
    allowed = egress.destinations(config, cloud_identity=identity)
    targets = publications.targets(target)
    entries = [_entry(publish_target) for publish_target in targets]
    other_hub = not target.hub.is_public and publishing.uses_hub(targets)
    hub = [target.hub.url] if other_hub else []
    common = [entries, allowed.model_dump(mode="json"), target.config.ca_certificates]
    shared = target.endpoint
    if shared is None:
        return [*common, *hub]
    return [*common, *hub, shared.limits.model_dump(mode="json"), shared.size, shared.volume]


def _argument(request: StageRequest, target: TargetRevision) -> str:
    """Return a request as the image of a revision reads it, at least by version 2."""
    version = {"contract": max(target.contract, 2)}
    return request.model_copy(update=version).to_argument()


def _entry(publish_target: PublishTarget) -> dict[str, Any]:
    """Return the values of a target, without the fields that earlier versions did not have."""
    absent = {"hugging_face"} if publish_target.hugging_face is None else None
    return publish_target.model_dump(mode="json", exclude=absent)


def _publish(
    job: Object, target: TargetRevision, record: Revision, published: Mapping[str, str]
) -> PublishStageRequest:
    identity, config = publishing.connections(target, target.config)
    requests = publishing.requests(job, target, record, published, CONFIG)
    merged = [request for request in requests if request.what == "merged"]
    has_card = any(request.hugging_face is not None for request in merged)
    return PublishStageRequest(
        **_common(target),
        base_manifest=record.artifacts.base_manifest or "",
        images=_images(record, {stage.name for stage in PIPELINE}),
        targets=requests,
        build=target.build if merged else None,
        adapter_manifest=(record.artifacts.adapter_manifest or "") if has_card else None,
        destinations=egress.destinations(config, cloud_identity=identity),
        ca_certificates=target.config.ca_certificates,
    )


def _images(record: Revision, stages: Collection[str]) -> dict[str, str]:
    """Return the images of some stages, as far as they are known."""
    return {
        attempt.stage: attempt.image_id
        for attempt in record.stages
        if attempt.stage in stages and attempt.image_id is not None
    }


def _request(
    target: TargetRevision, stage: JobStage, record: Revision
) -> PrepareStageRequest | TrainStageRequest | MergeStageRequest:
    if stage.reads_sources:
        return _prepare(target, untrusted_volume=record.untrusted_volume is not None)
    spec, artifacts = target.resolved.spec, record.artifacts
    before = {previous.name for previous in earlier(stage)}
    results: dict[str, Any] = {
        # No manifest has an empty digest.
        "base_manifest": artifacts.base_manifest or "",
        "images": _images(record, before),
    }
    if stage.gpu:
        limit = limit_of(target)
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
    driver, compute_capability = versions_of(spec.placement.node_selector or {})
    cloud_identity = spec.access.service_account_name is not None
    return PrepareStageRequest(
        **_common(target),
        cards=tuple(products.cards(config, target.resolved, target.flavors)),
        driver=driver,
        compute_capability=compute_capability,
        serving=ServingSettings.of(spec, dtype=config.serving.dtype),
        merges=any(stage.per_build for stage in desired(spec)),
        volume_size=spec.storage.size,
        train_memory=(spec.resources.train.limits or {}).get("memory"),
        untrusted_volume=untrusted_volume,
        destinations=egress.destinations(
            config,
            cloud_identity=cloud_identity,
            hosts=target.hosts,
            one_limit=target.contract < ONE_LIMIT_BEFORE,
        ),
        ca_certificates=config.ca_certificates,
        signatures=sources.required_signatures(spec, config.signatures),
        endpoint=None if target.endpoint is None else target.endpoint.limits,
    )


def _common(target: TargetRevision) -> dict[str, Any]:
    return {
        "config": f"{CONFIG}/{JOB_FILE}",
        "config_digest": target.frozen.job_digest,
        "work": WORK,
    }
