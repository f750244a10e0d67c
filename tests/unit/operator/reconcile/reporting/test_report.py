"""What the status reports while the API server rejects a write."""

from dataclasses import replace

from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Thing
from tests.unit.operator.reconcile.publishing.test_plan_publishing import jobs, served, target

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.reconcile.conditions import SEE_READY
from finetune_operator.reconcile.reporting.report import report
from finetune_operator.types import Plan

QUOTA = "exceeded quota: count/jobs.batch"


def reported(cluster: Cluster, rejected: Thing, planned: Plan | None = None) -> dict[str, Thing]:
    found = report(
        cluster.observe(),
        reason=Reason.QUOTA_EXCEEDED,
        message=QUOTA,
        now=cluster.now,
        planned=None if planned is None else planned.status,
        rejected=rejected,
    )
    return {each["type"]: each for each in found.status["conditions"]}


def test_rejected_publish_job_changes_only_its_own_condition() -> None:
    cluster = served(target())
    (job,) = jobs(cluster)
    before = {each["type"]: each for each in cluster.status["conditions"]}
    for planned in (None, cluster.plan()):
        after = reported(cluster, job, planned)
        published = after.pop("Published")
        expected = ("False", "QuotaExceeded", QUOTA)
        assert (published["status"], published["reason"], published["message"]) == expected
        assert after == {name: each for name, each in before.items() if name != "Published"}


def test_condition_keeps_its_transition_time_while_the_write_is_rejected() -> None:
    cluster = served(target())
    (job,) = jobs(cluster)
    first = reported(cluster, job)
    planned, snapshot = cluster.plan(), cluster.observe()
    cluster.wait(60)
    status = {**snapshot.job["status"], "conditions": list(first.values())}
    again = report(
        replace(snapshot, job={**snapshot.job, "status": status}),
        reason=Reason.QUOTA_EXCEEDED,
        message=QUOTA,
        now=cluster.now,
        planned=planned.status,
        rejected=job,
    )
    assert first["Published"] in again.status["conditions"]
    assert again.events == ()


def test_rejected_publish_job_is_an_event_once() -> None:
    cluster = served(target())
    (job,) = jobs(cluster)
    found = report(
        cluster.observe(),
        reason=Reason.QUOTA_EXCEEDED,
        message=QUOTA,
        now=cluster.now,
        rejected=job,
    )
    assert [(each.type, each.reason, each.message) for each in found.events] == [
        ("Warning", "QuotaExceeded", QUOTA)
    ]


def test_another_rejected_write_stalls_the_job() -> None:
    cluster = served(target())
    (other, *_) = cluster.each("Deployment")
    after = reported(cluster, other)
    assert (after["Ready"]["status"], after["Ready"]["reason"]) == ("False", "QuotaExceeded")
    assert after["Stalled"]["status"] == "True"


def test_condition_refers_to_ready_again_if_ready_gets_its_message_again() -> None:
    cluster = Cluster()
    controllers.run(cluster, "prepare")
    controllers.run(cluster, "train", 80)
    cluster.settle()
    snapshot = cluster.observe()
    failure = snapshot.job["status"]["conditions"][0]["message"]
    found = []
    for message in (QUOTA, failure, failure):
        plan = report(snapshot, reason=Reason.QUOTA_EXCEEDED, message=message, now=cluster.now)
        snapshot = replace(snapshot, job={**snapshot.job, "status": plan.status})
        found.append({each["type"]: each["message"] for each in plan.status["conditions"]})
    assert [each["Ready"] for each in found] == [QUOTA, failure, failure]
    assert [each["Trained"] for each in found] == [failure, SEE_READY, SEE_READY]
