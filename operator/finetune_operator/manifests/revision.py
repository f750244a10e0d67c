"""The ConfigMap that freezes a revision."""

import json
from typing import Any

from finetune_api.contracts.job_config import JobConfig
from finetune_operator.objects import naming
from finetune_operator.revisions.target import (
    JOB_FILE,
    LIVE,
    OPERATOR_FILE,
    REACHED_BY,
    TargetRevision,
)
from finetune_operator.types import Object


def configmap(job: Object, target: TargetRevision) -> dict[str, Any]:
    """Return the immutable ConfigMap that freezes a revision."""
    document = JobConfig(
        namespace=job["metadata"]["namespace"],
        name=job["metadata"]["name"],
        uid=job["metadata"]["uid"],
        revision=target.revision,
        model=target.resolved.spec.model,
        dataset=target.resolved.spec.dataset,
        training=target.resolved.spec.training,
        evaluation_dataset=target.resolved.spec.evaluation.dataset,
    )
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": naming.metadata(
            job,
            naming.revision_name(job["metadata"]["name"], target.revision),
            naming.labels(job, component="revision", revision=target.revision),
        ),
        "immutable": True,
        "data": {
            JOB_FILE: _text(
                document.model_dump(
                    mode="json",
                    exclude=dict.fromkeys(("model", "dataset", "evaluation_dataset"), REACHED_BY),
                )
            ),
            OPERATOR_FILE: _text(target.config.model_dump(mode="json", exclude=LIVE)),
        },
    }


def _text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
