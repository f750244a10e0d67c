"""The two documents of a revision's ConfigMap: ``job.json`` and ``operator.json``.

The trainer reads ``job.json``. ``operator.json`` is the operator's configuration (images, serving
command, defaults) at the start of the revision. The ledger has the text of ``operator.json`` and
the digests of both documents. The operator reads neither of them from the ConfigMap, which its
users may replace; it only compares them with the digests.

Next to the trainer image, ``operator.json`` has the version of the contract with it
(``contracts.stage_request``). A revision that has the image as a text was started with version 1.
An operator that knows only version 1 expects a text and leaves a later revision alone, where it
would otherwise start a stage with arguments that the image rejects.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from finetune_api.contracts.job_config import JobConfig, ParentJob
from finetune_api.contracts.stage_request import CONTRACT_VERSION
from finetune_api.defaulting import Resolved
from finetune_api.revision_hash import text_digest
from finetune_api.v1alpha1.status.ledger import FrozenConfiguration
from finetune_operator.config import Settings
from finetune_operator.types import Object

JOB_FILE = "job.json"
OPERATOR_FILE = "operator.json"
LIVE = {
    "operator_namespace",
    "scraper_namespaces",
    "egress",
    "proxy",
    "ca_certificates",
    "policy",
    "signatures",
    "signing_key",
}
"""Settings of the operator, of NetworkPolicies and of limits, which are not frozen."""
MOST_FROZEN_BYTES = 32 * 1024
"""Limit of the frozen configuration, which the status has once for each retained revision: at most
20, and those that serve or are the target. An object in etcd can have 1.5 MiB."""
REACHED_BY: Any = {
    "token_secret_ref": True,
    "ca_config_map_ref": True,
    "s3": {"region": True, "secret_ref": True},
    "oci": True,
}
"""Fields that say how a source is reached. An edit does not change the revision: each new pod gets
the present values."""

ADDED_TO_ROWS = ("config",)
ADDED_TO_TRAINING = (
    "gradientCheckpointing",
    "ligerLayers",
    "warmupSteps",
    "minLearningRateRatio",
    "adamBeta1",
    "adamBeta2",
    "adamEpsilon",
)
"""Fields of datasets, and of ``training.advanced``, that job.json has only if they are set: the
job.json of a revision that an earlier version started does not change, and the trainer of that
version can read it."""


def freeze(job: Object, resolved: Resolved, config: Settings) -> FrozenConfiguration:
    """Return what the ledger records about a revision that starts now."""
    operator = frozen_part(config)
    return FrozenConfiguration(
        digest=resolved.digest,
        job_digest=text_digest(job_file(job, resolved)),
        operator_digest=text_digest(operator_file(operator)),
        operator=operator,
        lora_rank=resolved.spec.training.lora.r,
        parent=resolved.parent,
    )


def frozen_again(frozen: FrozenConfiguration, settings: Settings) -> FrozenConfiguration:
    """Return the record of a revision with other images, and the same input of the trainer."""
    before, version = thawed(frozen.operator)
    same = before.images.trainer == settings.images.trainer
    operator = frozen_part(settings, version if same else CONTRACT_VERSION)
    changes = {"operator": operator, "operator_digest": text_digest(operator_file(operator))}
    return frozen.model_copy(update=changes)


@lru_cache(maxsize=64)
def frozen_part(config: Settings, contract: int = CONTRACT_VERSION) -> str:
    """Return the settings that are frozen at the start of a revision, as JSON.

    contract: version of the contract with the trainer image.
    """
    settings = config.model_dump(mode="json", exclude=LIVE)
    if config.profile is not None:
        settings["profile"] = config.profile.model_dump(mode="json", exclude_defaults=True)
    images = settings["images"]
    if contract > 1:
        images["trainer"] = {"image": images["trainer"], "contract": contract}
    return json.dumps(settings, separators=(",", ":"), ensure_ascii=False)


def thawed(operator: str) -> tuple[Settings, int]:
    """Return the frozen settings, and the version of the contract with the trainer image.

    Raises ValueError if they cannot be read.
    """
    settings, version = json.loads(operator), 1
    match settings:
        case {"images": {"trainer": {"image": image, "contract": int(version)}}}:
            settings["images"]["trainer"] = image
    if not 1 <= version <= CONTRACT_VERSION:
        raise ValueError(
            f"images.trainer.contract is {version}, but this operator supports 1 to "
            f"{CONTRACT_VERSION}"
        )
    # A setting that this version no longer has does not make a revision unreadable.
    return Settings.model_validate(settings, extra="ignore"), version


def job_file(job: Object, resolved: Resolved) -> str:
    """Return ``job.json`` for the present spec."""
    document = JobConfig(
        namespace=job["metadata"]["namespace"],
        name=job["metadata"]["name"],
        revision=resolved.revision,
        digest=resolved.digest,
        model=resolved.spec.model,
        dataset=resolved.spec.common_dataset,
        datasets=resolved.spec.datasets,
        training=resolved.spec.training,
        evaluation_dataset=resolved.spec.evaluation.dataset,
        parent=_parent(resolved),
    )
    content = document.model_dump(
        mode="json",
        exclude={
            **dict.fromkeys(("model", "dataset", "evaluation_dataset"), REACHED_BY),
            "datasets": {"__all__": REACHED_BY},
            "training": {"start_from": REACHED_BY},
        },
    )
    if content["training"]["startFrom"] is None:
        # As an earlier version wrote it.
        del content["training"]["startFrom"]
    else:
        del content["training"]["startFrom"]["job"]
    if content["parent"] is None:
        del content["parent"]
    advanced = content["training"]["advanced"]
    for name in ADDED_TO_TRAINING:
        if advanced[name] is None:
            del advanced[name]
    datasets = (content["dataset"], *(content["datasets"] or ()), content["evaluationDataset"])
    for rows in filter(None, datasets):
        for name in ADDED_TO_ROWS:
            if rows[name] is None:
                del rows[name]
    return _lines(content)


def _parent(resolved: Resolved) -> ParentJob | None:
    parent = resolved.parent
    if parent is None:
        return None
    return ParentJob(
        job=parent.job, revision=parent.revision, digest=parent.digest, manifest=parent.manifest
    )


@lru_cache(maxsize=64)
def operator_file(operator: str) -> str:
    """Return ``operator.json`` in lines. operator: its content, as the ledger has it."""
    return _lines(json.loads(operator))


def agree(digests: Mapping[str, str], frozen: FrozenConfiguration) -> bool:
    """Report whether the data of a ConfigMap consists of exactly the documents of a revision.

    digests: of the values in its data, by key (``objects.compact.trimming``).
    """
    return digests == {JOB_FILE: frozen.job_digest, OPERATOR_FILE: frozen.operator_digest}


def _lines(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
