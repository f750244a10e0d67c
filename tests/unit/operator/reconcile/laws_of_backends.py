"""Laws of the training library that prepare selects for a revision."""

from dataclasses import replace

from tests.fakes.apiserver import Cluster, Thing, copied, merge

from finetune_operator.reconcile.plan import plan
from finetune_operator.types import Object, Snapshot

AUTO = "auto"


def equal_backend_is_no_edit(cluster: Cluster, snapshot: Snapshot, status: Object) -> None:
    """``auto`` and the backend that it selects define the same revision."""
    records = {each["revision"]: each for each in status.get("revisions", ())}
    selected = records.get(status["revision"], {}).get("backend")
    if selected is None or written(snapshot.job) not in (AUTO, selected["automatic"]):
        return
    for name in (AUTO, selected["automatic"]):
        job = copied(dict(snapshot.job))
        merge(job["spec"], {"training": {"advanced": {"backend": name}}})
        edited = plan(replace(snapshot, job=job), now=cluster.now).status
        assert (edited["revision"], edited["build"]) == (status["revision"], status["build"]), name


def written(job: Object) -> str:
    """Return the backend that a job sets."""
    advanced = (job["spec"].get("training") or {}).get("advanced") or {}
    return str(advanced.get("backend") or AUTO)


def backends_stay(before: Thing, after: Thing) -> None:
    """No attempt and no upgrade replaces the backend of a revision."""
    selected = {each["revision"]: each.get("backend") for each in before.get("revisions", ())}
    for each in after.get("revisions", ()):
        if known := selected.get(each["revision"]):
            assert each.get("backend") == known, each["revision"]
