"""Self-service with real pods and real RBAC users, from the offer to the endpoint that returns.

An administrator writes two profiles and a budget; a member of a team has rights on FineTuneJobs and
one profile; an approver may write budgets. The tests build on each other, and move the clock that
dates usage and periods. `make test` has the same with pods that the tests complete
(tests/integration/test_self_service.py).
"""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from tests.e2e import clock, self_service
from tests.e2e.authors import AUTHOR as MEMBER
from tests.e2e.authors import admit, wait_for_right
from tests.e2e.clock import LateClock
from tests.support import approvals
from tests.support.local_cluster import locks
from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.target import RUN, Cluster, namespaces
from tests.support.local_cluster.tuning import Tuning

pytestmark = pytest.mark.exhaustive

LOCKS = {locks.OPERATOR: "alone", locks.GPUS: "shared"}
ADMINISTRATOR, APPROVER = "platform-administrator", "approver"
# The usage of a namespace outlives it, so another run on the same day needs another one.
NAMESPACE = f"e2e-walk-{RUN}"
SMALL, LARGE, BUDGET, CURATORS = "e2e-walk-small", "e2e-walk-large", "e2e-walk", "e2e-walk-curators"
GPU_SECONDS, HOURS = 1800, "0.5"
"""What a job may use, which is all that the budget has for a day."""
COST = Decimal(180)
SECONDS = 900.0


@dataclass(frozen=True, kw_only=True)
class Walk:
    """The cluster as the users see it."""

    cluster: Cluster
    clock: LateClock

    def job(self, name: str) -> Tuning:
        return Tuning(cluster=self.cluster, namespace=NAMESPACE, name=name)

    def administer(self, *words: str, stdin: Object | None = None) -> str:
        return self_service.run(self.cluster, ADMINISTRATOR, *words, stdin=stdin)

    def limit(self, hours: float, **spec: object) -> None:
        """Let the administrator write the budget."""
        body = self_service.budget(
            BUDGET, NAMESPACE, period="Day", training={"gpuHours": hours}, **spec
        )
        self.administer("apply", "-f", "-", stdin=body)

    def training(self) -> Any:
        """Return the account of the training in the status of the budget."""
        return self.cluster.kubectl.get("ftb", BUDGET)["status"]["training"]

    def approve(self, user: str, *entries: Object) -> str:
        """Write the approvals of the budget; return the error."""
        patch = json.dumps({"spec": {"approvals": entries}})
        words = ("patch", "ftb", BUDGET, "--type=merge", f"--patch={patch}")
        return self_service.attempt(self.cluster, user, *words).stderr


@pytest.fixture(scope="module")
def walk(cluster: Cluster) -> Iterator[Walk]:
    """Give the users their rights; the clock of the operator is late."""
    bindings = {
        "e2e-walk-members": (self_service.CATALOG, MEMBER),
        "e2e-walk-administrators": (self_service.APPROVERS, ADMINISTRATOR),
        "e2e-walk-curators": (CURATORS, ADMINISTRATOR),
        "e2e-walk-approvers": (self_service.APPROVERS, APPROVER),
    }
    with namespaces(cluster, NAMESPACE), clock.late(cluster) as late:
        admit(cluster, NAMESPACE, self_service.right_to_use(SMALL))
        cluster.kubectl.apply(
            _curators(),
            *(self_service.binding_of(name, *bound) for name, bound in bindings.items()),
        )
        for user, verb, kind in (
            (MEMBER, "list", "finetuneprofiles"),
            (ADMINISTRATOR, "create", "finetuneprofiles"),
            (ADMINISTRATOR, "create", "finetunebudgets"),
            (APPROVER, "patch", "finetunebudgets"),
        ):
            wait_for_right(cluster, NAMESPACE, user, verb, f"{kind}.finetune.dev")
        try:
            yield Walk(cluster=cluster, clock=late)
        finally:
            for kind, names in {
                "ftp": (SMALL, LARGE),
                "ftb": (BUDGET,),
                "clusterrolebinding": bindings,
                "clusterrole": (CURATORS,),
            }.items():
                for name in names:
                    cluster.kubectl.delete(kind, name)


def test_the_administrator_offers_what_the_member_sees_and_cannot_change(walk: Walk) -> None:
    for name, seconds in ((SMALL, GPU_SECONDS), (LARGE, 2 * GPU_SECONDS)):
        body = self_service.profile(name, gpu_seconds=seconds, maxSequenceLength=512)
        walk.administer("apply", "-f", "-", stdin=body)
    walk.limit(float(HOURS))
    valid = ("wait", "--for=condition=Valid", "--timeout=120s")
    walk.administer(*valid, f"ftp/{SMALL}", f"ftp/{LARGE}", f"ftb/{BUDGET}")
    menu = self_service.run(walk.cluster, MEMBER, "get", "ftp").splitlines()
    for name in (SMALL, LARGE):
        (line,) = (each for each in menu if each.split()[0] == name)
        assert {self_service.PRICE, self_service.CURRENCY, "512", "True"} <= set(line.split())
    for words in ("delete ftp " + SMALL, "get ftb", "delete ftb " + BUDGET):
        assert "Forbidden" in self_service.attempt(walk.cluster, MEMBER, *words.split()).stderr


def test_a_job_above_a_limit_or_of_another_profile_is_rejected_at_apply(walk: Walk) -> None:
    first = walk.job("first")

    def rejection(offer: str, **spec: object) -> str:
        body = self_service.three_lines(first, offer, **spec)
        return self_service.attempt(walk.cluster, MEMBER, "apply", "-f", "-", stdin=body).stderr

    assert (
        "denied request: spec.training.sequenceLength: 1024 is not allowed. At most 512 is allowed "
        f"(limits.maxSequenceLength of FineTuneProfile {SMALL}). Set an allowed value"
    ) in rejection(SMALL, training={"sequenceLength": 1024})
    assert "no permission to use FineTuneProfile" in rejection(LARGE)
    assert first.current() is None


def test_three_lines_train_a_model_and_show_the_price_before_the_gpu(walk: Walk) -> None:
    first = walk.job("first")
    self_service.apply(first, SMALL)
    self_service.wait_until_trained_at_a_known_price(first, most=COST)


def test_the_idle_endpoint_of_the_first_job_goes_to_zero(walk: Walk) -> None:
    self_service.wait_until_idle(walk.job("first"))


def test_the_next_job_waits_over_budget_without_a_gpu(walk: Walk) -> None:
    # So that it does not wait for the end of another job, but for the end of the day.
    _wait("the first job has used GPU time", lambda: Decimal(walk.training()["cost"]["used"]) > 0)
    _wait("its reservation has ended", lambda: walk.training()["running"] == 0)
    second = walk.job("second")
    self_service.apply(second, SMALL, serving={"enabled": False})
    second.wait_until("Ready", reason="OverBudget", status="False", seconds=SECONDS)
    need = f"{HOURS} GPU-hours (180.00 EUR)"
    when = f"at the latest about {walk.clock.midnight:%Y-%m-%d %H:%M} UTC"
    assert re.fullmatch(
        re.escape(f"The job needs {need}. FineTuneBudget {BUDGET} has {HOURS} GPU-hours for this ")
        + r"day: used 0(\.\d+)? GPU-hours \(\d+\.\d\d EUR\), reserved 0 GPU-hours \(0\.00 EUR\)\. "
        + re.escape(f"The job starts by itself, {when}."),
        second.message(),
    )
    assert second.jobs("train") == second.pods("train") == []


def test_the_job_starts_by_itself_on_the_next_day(walk: Walk) -> None:
    second = walk.job("second")
    assert second.jobs("train") == []
    walk.clock.catch_up()
    second.wait_until("Trained", seconds=SECONDS)
    current = second.current()
    assert current is not None
    assert current["metadata"]["generation"] == 1, "nobody has edited it"
    status = walk.cluster.kubectl.get("ftb", BUDGET)["status"]
    assert datetime.fromisoformat(status["periodStart"]) >= walk.clock.midnight


def test_a_job_is_approved_by_another_user_and_an_edit_needs_a_new_approval(walk: Walk) -> None:
    third = walk.job("third")
    walk.limit(10, approvalAbove={"gpuHours": 0.25})

    def submit(**training: object) -> Object:
        """Apply the job as the member; return the approval for which it waits."""
        self_service.apply(third, SMALL, serving={"enabled": False}, training=training)
        third.wait_until("Ready", reason="ApprovalNeeded", status="False", seconds=SECONDS)
        return approvals.entry_of(third.message())

    first = submit()
    assert (first["namespace"], first["name"]) == (NAMESPACE, "third")
    assert (first["maxGpuHours"], first["maxCost"]) == (float(HOURS), "180.00")
    assert third.jobs("train") == []
    assert "Forbidden" in walk.approve(MEMBER, first)
    assert walk.approve(APPROVER, first) == ""
    third.wait_for_pod("train", seconds=SECONDS)

    second = submit(learningRate=5e-4)
    assert second["revision"] != first["revision"]
    assert second["uid"] == first["uid"]
    assert len(third.jobs("train")) == 1
    assert walk.approve(APPROVER, first, second) == ""
    third.wait_until("Trained", seconds=SECONDS)
    assert len(third.jobs("train")) == 2


def test_the_endpoint_returns_verified_when_the_member_wakes_it(walk: Walk) -> None:
    self_service.wake(walk.job("first"))


def _curators() -> Object:
    """Return the role of an administrator who writes profiles."""
    rbac = "rbac.authorization.k8s.io"
    verbs = ["get", "list", "watch", "create", "patch"]
    rule = {"apiGroups": ["finetune.dev"], "resources": ["finetuneprofiles"], "verbs": verbs}
    return {
        "apiVersion": f"{rbac}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": CURATORS},
        "rules": [rule],
    }


def _wait(what: str, check: Any) -> None:
    until = time.monotonic() + SECONDS
    while not check():
        assert time.monotonic() < until, f"not in time: {what}"
        time.sleep(1)
