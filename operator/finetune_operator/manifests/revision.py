"""The ConfigMap of a revision, with the documents whose digests are in the ledger."""

from typing import Any

from finetune_operator.objects import naming
from finetune_operator.revisions.documents import JOB_FILE, OPERATOR_FILE, job_file, operator_file
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object


def configmap(job: Object, target: TargetRevision) -> dict[str, Any]:
    """Return the immutable ConfigMap of a revision: ``job.json`` is rendered from the spec."""
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
            JOB_FILE: job_file(job, target.resolved),
            OPERATOR_FILE: operator_file(target.frozen.operator),
        },
    }
