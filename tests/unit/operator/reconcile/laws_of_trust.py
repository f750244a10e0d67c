"""Laws about objects that tenants can write: nothing in them changes a pod of the job."""

import json
from collections.abc import Collection

from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Thing
from tests.support.attacks.forged_revisions import pod_templates

from finetune_api.revision_hash import text_digest
from finetune_operator.actions import Create
from finetune_operator.objects import naming
from finetune_operator.objects.compact.trimming import DIGESTS
from finetune_operator.types import Plan, Snapshot


def of_hostile_objects(intended: Plan, without: Plan, copied: Collection[str | None]) -> None:
    """No object that the operator did not write changes a pod.

    without: the plan for the same snapshot without the objects of ``Cluster.foreign``. copied: the
    revisions of ``copies``, whose Jobs it may lack if the operator cannot render the configuration
    again. Such a Job expects the recorded content (``configuration_is_vouched_for``).
    """
    allowed = pod_templates(without)
    for name, template in pod_templates(intended).items():
        if name not in allowed:
            assert template["metadata"]["labels"][naming.REVISION] in copied, name
        assert template == allowed.get(name, template), name
        assert "hostile" not in str(template).lower(), name


def copies(snapshot: Snapshot, foreign: Collection[str]) -> set[str | None]:
    """Return the revisions whose configuration is a tenant's copy with the recorded content.

    foreign: uids of the objects that tenants made.
    """
    recorded = {
        each["revision"]: {
            "job.json": each["frozen"]["jobDigest"],
            "operator.json": each["frozen"]["operatorDigest"],
        }
        for each in snapshot.job.get("status", {}).get("revisions", ())
    }
    return {
        revision
        for each in snapshot.configmaps
        if each["metadata"]["uid"] in foreign
        and (revision := naming.label(each, naming.REVISION)) in recorded
        and each.get(DIGESTS) == recorded[revision]
    }


def configuration_is_vouched_for(intended: Plan) -> None:
    """A ConfigMap has the content of the ledger, and a Job expects this content."""
    frozen = {each["revision"]: each["frozen"] for each in intended.status.get("revisions", ())}
    for action in intended.actions:
        if not isinstance(action, Create):
            continue
        digests = frozen.get(str(naming.label(action.object, naming.REVISION)), {})
        if action.object["kind"] == "ConfigMap":
            data = action.object["data"]
            assert sorted(data) == ["job.json", "operator.json"]
            assert text_digest(data["job.json"]) == digests["jobDigest"]
            assert text_digest(data["operator.json"]) == digests["operatorDigest"]
            assert json.loads(data["operator.json"]) == json.loads(digests["operator"])
        if action.object["kind"] == "Job":
            request = controllers.request_of(dict(action.object))
            assert request.config_digest == digests["jobDigest"]


def results_are_of_own_jobs(cluster: Cluster, proved: Collection[str]) -> None:
    """An attempt runs in, and has the result of, a Job that a create request returned or found.

    proved: uids of the Jobs that are Complete and have a result that reports completion.
    """
    for revision in cluster.status.get("revisions", ()):
        for attempt in revision["stages"]:
            if attempt["stage"] != "serve" and attempt["outcome"] in ("Running", "Completed"):
                assert attempt["job"] in cluster.confirmed, attempt
                assert attempt["outcome"] == "Running" or attempt["job"] in proved, attempt


def unknown_content_is_deleted(job: Thing, proved: Collection[tuple[str, ...]]) -> None:
    """Preparation trusts no file on the volume of an earlier job, and no stage runs before it.

    job: a new Job that uses the volume; proved: owner, revision, stage and build of the stages that
    completed.
    """
    labels, (owner,) = job["metadata"]["labels"], job["metadata"]["ownerReferences"]
    if labels[naming.STAGE] == "prepare":
        assert controllers.request_of(job).untrusted_volume, job["metadata"]["name"]
    else:
        assert (owner["uid"], labels[naming.REVISION], "prepare", "None") in proved
