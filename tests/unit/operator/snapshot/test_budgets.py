"""The accounts of a job's snapshot, the gate of reservations, and the jobs that changes wake."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

import pytest
from tests.fakes.kube_client import MemoryKube, job

from finetune_api.v1alpha1.profile import Price
from finetune_operator.budgets.accounts import Accounts
from finetune_operator.budgets.amounts import Amount, Bound
from finetune_operator.budgets.balances import Balance, ServingBalance
from finetune_operator.budgets.periods import containing
from finetune_operator.controller.controller import Controller
from finetune_operator.controller.followers import BudgetFollowers
from finetune_operator.snapshot.budgets.budgets import GRANTED_FOR, Budgets
from finetune_operator.snapshot.budgets.reader import BudgetReader
from finetune_operator.snapshot.budgets.surroundings import Surroundings
from finetune_operator.snapshot.live import LiveReader
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.snapshot.watches import BUDGETS, ENDPOINTS
from finetune_operator.types import BudgetSnapshot, Key, Object
from finetune_operator.usage.values import (
    DayUse,
    NamespaceUsage,
    Reservation,
    ReservationRequest,
    Usage,
)

Thing = dict[str, Any]
NOW = datetime(2026, 11, 12, 8, tzinfo=UTC)
HOUR = 3600
MANAGED = {"app.kubernetes.io/managed-by": "finetune-operator"}
EUROS = Price(per_gpu_hour="2.00", currency="EUR")


def budget(name: str, version: int = 1, *, status: Thing | None = None, **spec: Any) -> Thing:
    metadata = {"name": name, "uid": name, "generation": 1, "resourceVersion": str(version)}
    values = {
        "namespaceSelector": {"matchLabels": {"team": "vision"}},
        "period": "Month",
        "training": {"gpuHours": 10},
        **spec,
    }
    kind = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneBudget"}
    return {**kind, "metadata": metadata, "spec": values, "status": status or {}}


def namespace(name: str, **labels: str) -> Thing:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def priority_class(name: str, value: int, **values: Any) -> Thing:
    kind = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"}
    return {**kind, "metadata": {"name": name}, "value": value, **values}


def a_job(name: str = "mine", place: str = "a", version: int = 1, **changes: Any) -> Thing:
    found = job()
    found["metadata"] |= {
        "name": name,
        "namespace": place,
        "uid": f"uid-of-{name}",
        "resourceVersion": str(version),
        "generation": 1,
    }
    return found | changes


def reservation(name: str, hours: int, used: int = 0, price: Price | None = None) -> Reservation:
    return Reservation(
        key=f"train/uid-of-{name}/r",
        namespace="a",
        job=name,
        cap=hours * HOUR,
        price=price,
        used=used * HOUR,
    )


def namespace_usage(hours: int = 0, *reservations: Reservation) -> NamespaceUsage:
    return NamespaceUsage(
        days={
            (date(2026, 11, 3), "training"): DayUse(gpu_seconds=hours * HOUR),
            (date(2026, 11, 3), "serving"): DayUse(gpu_seconds=100 * HOUR),
            (date(2026, 10, 31), "training"): DayUse(gpu_seconds=50 * HOUR),
        },
        reservations={each.key: each for each in reservations},
    )


class Place:
    """Budgets over stores in memory."""

    def __init__(self, *budgets: Thing) -> None:
        self.kube = MemoryKube(
            namespace("a", team="vision"),
            namespace("b", team="vision"),
            namespace("other", team="speech"),
            priority_class("high", 100),
            priority_class("usual", 5, globalDefault=True),
        )
        self.store, self.jobs = ObjectStore(BUDGETS), ObjectStore()
        self.endpoints = ObjectStore(ENDPOINTS)
        for each in budgets:
            self.store.put(each)
        self.usages: dict[str, NamespaceUsage] = {}
        self.now = NOW
        self.budgets = Budgets(
            live=LiveReader(kube=self.kube, store=self.store),
            jobs=self.jobs,
            endpoints=self.endpoints,
            usage=self.usage,
            surroundings=Surroundings(kube=self.kube),
        )

    async def usage(self) -> Usage:
        return Usage(now=self.now, namespaces=self.usages)

    async def of(self, found: Object) -> Accounts:
        accounts = await self.budgets.of(found)
        assert accounts is not None
        return accounts


async def test_without_budgets_nothing_is_listed() -> None:
    place = Place()
    assert await place.budgets.of(a_job()) is None
    assert place.kube.reads == 0


async def test_the_budgets_of_a_namespace_are_found_by_its_labels() -> None:
    company = budget("company", namespaceSelector={})
    place = Place(budget("team"), company)
    assert (await place.of(a_job())).own == {"team", "company"}
    assert (await place.of(a_job(place="other"))).own == {"company"}
    reads = place.kube.reads
    await place.of(a_job())
    assert place.kube.reads == reads, "the labels are known"
    place.store.remove(budget("company", 9, namespaceSelector={}))
    assert await place.budgets.of(a_job(place="other")) is None
    place.store.put(budget("team", 10, namespaceSelector={"matchLabels": {"team": "speech"}}))
    assert await place.budgets.of(a_job()) is None, "an edit is live"
    assert (await place.of(a_job(place="other"))).own == {"team"}


async def test_usage_and_reservations_of_all_namespaces_of_the_period_count() -> None:
    place = Place(budget("team"))
    place.usages = {
        "a": namespace_usage(3, reservation("running", 2, used=1)),
        "b": namespace_usage(1),
        "other": namespace_usage(7),
    }
    (found,) = (await place.of(a_job())).balances.values()
    assert found.used.gpu_seconds == 4 * HOUR
    assert found.reserved.gpu_seconds == 1 * HOUR
    assert found.running == 1


async def test_the_time_alone_is_no_news() -> None:
    """A snapshot that a live read confirms is not planned again."""
    place = Place(budget("team", serving={"maxGpus": 1}))
    place.usages = {"a": namespace_usage(5)}
    before = await place.of(a_job())
    place.now += timedelta(seconds=5)
    after = await place.of(a_job())
    assert after == before
    assert after.balances["team"].now == before.balances["team"].now + timedelta(seconds=5)


async def test_the_reservations_of_the_job_itself_are_replaced() -> None:
    place = Place(budget("team"))
    place.usages = {"a": namespace_usage(0, reservation("mine", 8))}
    (found,) = (await place.of(a_job())).balances.values()
    assert found.reserved.gpu_seconds == 0
    (found,) = (await place.of(a_job("next"))).balances.values()
    assert found.reserved.gpu_seconds == 8 * HOUR


async def test_deleting_the_namespace_resets_nothing() -> None:
    """Security: its usage counts until the period ends, although its labels are gone."""
    counted = {"namespaces": ["gone"], "periodStart": "2026-11-01T00:00:00Z"}
    place = Place(budget("team", status=counted))
    place.usages = {"gone": namespace_usage(9), "never-counted": namespace_usage(5)}
    (found,) = (await place.of(a_job())).balances.values()
    assert found.used.gpu_seconds == 9 * HOUR
    before = {**counted, "periodStart": "2026-10-01T00:00:00Z"}
    place.store.put(budget("team", 2, status=before))
    (found,) = (await place.of(a_job())).balances.values()
    assert found.used.gpu_seconds == 0


async def test_deleting_the_job_resets_nothing() -> None:
    """Security: usage and reservations are not those of the jobs that exist."""
    place = Place(budget("team"))
    place.usages = {"a": namespace_usage(6, reservation("deleted", 4))}
    assert place.jobs.own_keys() == []
    (found,) = (await place.of(a_job())).balances.values()
    assert not found.fits(found.used)


async def test_jobs_wait_by_priority_and_age_with_their_own_budgets() -> None:
    place = Place(budget("team"), budget("company", namespaceSelector={}))
    needs = {"waitingSince": "2026-11-02T00:00:00Z", "revision": "d" * 64, "gpuSeconds": 7}
    priced = {**needs, "perGpuHour": "2.00", "currency": "EUR", "priority": 100}
    place.jobs.put(a_job("waits", status={"budget": needs}))
    place.jobs.put(a_job("elsewhere", "other", 2, status={"budget": priced}))
    place.jobs.put(a_job("runs", version=3, status={}))
    found = {each.name: each for each in (await place.of(a_job())).waiting}
    assert found.keys() == {"waits", "elsewhere"}
    assert found["waits"].budgets == {"team", "company"}
    assert (found["waits"].gpu_seconds, found["waits"].priority) == (7, 0)
    assert found["elsewhere"].budgets == {"company"}
    assert (found["elsewhere"].price, found["elsewhere"].priority) == (EUROS, 100)
    place.jobs.put(a_job("waits", version=4, status={}))
    assert {each.name for each in (await place.of(a_job())).waiting} == {"elsewhere"}
    place.jobs.remove(a_job("elsewhere", "other", 5))
    assert (await place.of(a_job())).waiting == ()


NEEDS = {"waitingSince": "2026-11-02T00:00:00Z", "revision": "d" * 64, "gpuSeconds": 7}


def waits(name: str, place: str, version: int, **needs: Any) -> Thing:
    return a_job(name, place, version, status={"budget": NEEDS | needs})


async def test_a_job_has_the_queue_of_its_budgets_by_rank_and_each_version_is_parsed_once() -> None:
    speech = budget("speech", namespaceSelector={"matchLabels": {"team": "speech"}})
    place = Place(budget("team"), speech)
    for version, name in enumerate(("c", "a", "b"), start=1):
        place.jobs.put(waits(name, "b", version))
    place.jobs.put(waits("urgent", "a", 4, priority=5))
    place.jobs.put(waits("elsewhere", "other", 5))
    found = await place.of(a_job())
    assert [each.name for each in found.waiting] == ["urgent", "a", "b", "c"]
    assert found.balances.keys() == {"team"}
    place.jobs.put(waits("b", "b", 6))
    again = await place.of(a_job())
    assert all(one is other for one, other in zip(found.waiting, again.waiting, strict=True))
    # A budget of some namespaces of both connects them: who starts in one leaves less for all.
    names = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["b", "other"]}
    place.store.put(budget("both", 7, namespaceSelector={"matchExpressions": [names]}))
    connected = await place.of(a_job())
    assert len(connected.waiting) == 5
    assert connected.balances.keys() == {"team", "both", "speech"}


@pytest.mark.parametrize(
    "change", [{"waitingSince": "yesterday"}, {"perGpuHour": "free", "currency": "EUR"}]
)
async def test_a_request_that_cannot_be_read_has_no_place(change: Thing) -> None:
    """Security: a status that another client has written disturbs no other job."""
    place = Place(budget("team"))
    place.jobs.put(waits("forged", "a", 1, **change))
    place.jobs.put(waits("waits", "a", 2))
    assert [each.name for each in (await place.of(a_job())).waiting] == ["waits"]


async def test_the_queue_follows_the_labels_of_namespaces() -> None:
    place = Place(budget("team"))
    place.jobs.put(waits("moved", "b", 1))
    assert len((await place.of(a_job())).waiting) == 1
    generation = place.budgets.surroundings.generation
    await place.budgets.surroundings.refresh()
    assert place.budgets.surroundings.generation == generation, "nothing has changed"
    place.budgets.surroundings.labels = {"a": {"team": "vision"}, "b": {}}
    place.budgets.surroundings.generation += 1
    assert (await place.of(a_job())).waiting == ()


async def test_a_budget_that_is_deleted_while_usage_is_read_is_no_error() -> None:
    place = Place(budget("team"), budget("company", namespaceSelector={}))

    place.budgets.usage = usage_after(place, budget("team", 9))
    assert (await place.of(a_job())).own == {"company"}
    place.store.put(budget("team", 10))
    place.budgets.parsed()
    place.budgets.usage = usage_after(place, budget("team", 11))
    reader = BudgetReader(live=place.budgets.live, budgets=place.budgets)
    assert await reader.read(("", "team")) is None


def usage_after(place: Place, gone: Thing) -> Any:
    async def usage() -> Usage:
        place.store.remove(gone)
        return Usage(now=NOW, namespaces={})

    return usage


@pytest.mark.parametrize(("name", "value"), [(None, 5), ("high", 100), ("absent", 0)])
async def test_the_priority_is_the_value_of_the_priority_class(name: Any, value: int) -> None:
    place = Place(budget("team"))
    spec: Thing = {} if name is None else {"priorityClassName": name}
    assert (await place.of(a_job(spec=spec))).priority == value


async def test_a_job_that_is_done_costs_nothing_until_it_is_edited() -> None:
    place = Place(budget("team"))

    def ended(ready: str, reason: str) -> Thing:
        values = {"reason": reason, "observedGeneration": 1}
        conditions = [
            {"type": "Finished", "status": "True", **values},
            {"type": "Ready", "status": ready, **values},
        ]
        return a_job(status={"conditions": conditions})

    assert await place.budgets.of(ended("True", "Serving")) is None
    assert place.kube.reads == 0
    edited = ended("True", "Serving")
    edited["metadata"]["generation"] = 2
    assert await place.budgets.of(edited) is not None
    # It starts again if a budget, or the configuration that made it fail, is changed.
    for reason in ("ExceedsBudget", "OutOfMemory"):
        assert await place.budgets.of(ended("False", reason)) is not None


async def test_a_budget_that_cannot_be_read_holds_the_jobs_that_it_selects() -> None:
    place = Place(budget("team", period="Decade"))
    problem = (await place.of(a_job())).problem
    assert problem is not None
    assert problem.startswith("FineTuneBudget team cannot be read: spec.period: ")
    assert await place.budgets.of(a_job(place="other")) is None


async def test_a_budget_that_cannot_be_read_does_not_lift_the_limits_of_the_others() -> None:
    team = budget("team", training={"gpuHours": 1}, onExhausted={"training": "Checkpoint"})
    place = Place(budget("broken", period="Decade"), team)
    place.usages = {"a": namespace_usage(3)}
    found = await place.of(a_job())
    assert found.problem is not None
    assert found.balances.keys() == {"team"}
    assert found.exhausted is not None
    assert found.exhausted.name == "team"


async def test_without_records_of_usage_a_budget_lets_no_job_start() -> None:
    place = Place(budget("team"))
    place.budgets.usage = None
    assert "usage.enabled" in str((await place.of(a_job())).problem)
    snapshot = await BudgetReader(live=place.budgets.live, budgets=place.budgets).read(("", "team"))
    assert snapshot is not None
    assert snapshot.unrecorded


def request(name: str, hours: int | None, place: str = "a") -> ReservationRequest:
    return ReservationRequest(
        key=f"train/uid-of-{name}/r",
        namespace=place,
        job=name,
        cap=None if hours is None else hours * HOUR,
        price=EUROS,
    )


async def test_the_gate_sees_the_reservations_that_were_recorded_since_the_plan() -> None:
    place = Place(budget("team"))
    await place.of(a_job())
    usage = Usage(now=NOW, namespaces={"a": namespace_usage(0, reservation("first", 6))})
    assert place.budgets.admits(request("second", 4), usage)
    assert not place.budgets.admits(request("second", 5), usage)
    assert not place.budgets.admits(request("second", None), usage)
    assert place.budgets.admits(request("elsewhere", 50, "other"), usage)
    # A larger reservation of the same training replaces its present one, and that of another
    # revision the one whose pod is still ending, as in the plan.
    for wish in (request("first", 10), replace(request("first", 10), key="train/uid-of-first/s")):
        assert place.budgets.admits(wish, usage)
        assert not place.budgets.admits(replace(wish, cap=11 * HOUR), usage)


async def test_a_budget_reads_its_own_statement() -> None:
    counted = {"namespaces": ["a"], "periodStart": "2026-11-01T00:00:00Z"}
    place = Place(budget("team", status=counted, currency="EUR"))
    place.usages = {"a": namespace_usage(3, reservation("running", 2, price=EUROS))}
    needs = {"waitingSince": "2026-11-02T00:00:00Z", "revision": "d" * 64, "gpuSeconds": 7}
    place.jobs.put(a_job("waits", status={"budget": needs}))
    reader = BudgetReader(live=place.budgets.live, budgets=place.budgets)
    snapshot = await reader.read(("", "team"))
    assert snapshot is not None
    assert snapshot.balance is not None
    assert snapshot.balance.reserved.cost == 4
    assert (snapshot.namespaces, snapshot.waiting) == (("a",), 1)
    assert snapshot.selects
    assert await reader.read(("", "absent")) is None
    mistyped = budget("mistyped", namespaceSelector={"matchLabels": {"team": "vison"}})
    place = Place(mistyped)
    reader = BudgetReader(live=place.budgets.live, budgets=place.budgets)
    snapshot = await reader.read(("", "mistyped"))
    assert snapshot is not None
    assert not snapshot.selects


class Woken:
    """Stands for the controllers of jobs and of budgets."""

    def __init__(self, store: ObjectStore) -> None:
        self.store, self.reconciler = store, self
        self.names: list[str] = []
        self.later: list[str] = []

    def notify_later(self, key: Key, kind: str, seconds: float) -> None:
        self.later.append(key[1])

    def notify(self, key: Key, kind: str, version: int, urgent: bool) -> None:
        self.names.append(key[1])

    def taken(self) -> list[str]:
        names, self.names = self.names, []
        return sorted(names)


class Followed:
    """A budget that is reconciled, and the jobs that it wakes."""

    def __init__(self) -> None:
        self.place = Place(budget("team"))
        self.place.jobs.put(waits("waits", "b", 1))
        self.place.jobs.put(a_job("runs", version=2))
        self.jobs, self.own = Woken(self.place.jobs), Woken(self.place.store)
        self.endpoints = Woken(self.place.endpoints)
        self.followers = BudgetFollowers(
            jobs=cast(Controller[Any], self.jobs),
            budgets=self.place.budgets,
            endpoints=cast(Controller[Any], self.endpoints),
            own=cast(Controller[BudgetSnapshot], self.own),
        )

    def reconciled(self, used: float, reserved: float, **changes: Any) -> list[str]:
        """Reconcile the budget; return the names of the jobs that it wakes."""
        body = budget("team")
        body["metadata"]["generation"] = changes.pop("generation", 1)
        values = {"period": containing("Month", NOW), "running": 1, **changes}
        found = Balance(
            name="team",
            now=NOW,
            limit=Bound(gpu_seconds=10 * HOUR),
            used=Amount(gpu_seconds=int(used * HOUR)),
            reserved=Amount(gpu_seconds=int(reserved * HOUR)),
            **values,
        )
        self.followers.observed(("", "team"), BudgetSnapshot(budget=body, balance=found), {})
        self.followers.wake()
        return self.jobs.taken()


async def test_changes_of_budgets_wake_all_jobs_and_changes_of_usage_the_budget() -> None:
    followed = Followed()
    await followed.place.of(a_job())
    assert followed.reconciled(0, 0) == ["runs", "waits"]
    assert followed.reconciled(0, 0) == []
    assert followed.reconciled(0, 0, generation=2) == ["runs", "waits"]
    for namespace_, budgets in (("a", ["team"]), ("other", [])):
        followed.followers.used(namespace_)
        followed.followers.wake()
        assert (followed.jobs.taken(), followed.own.taken()) == ([], budgets)
    followed.followers.forget(("", "team"))
    followed.followers.wake()
    assert followed.jobs.taken() == ["runs", "waits"]


async def test_a_budget_that_no_job_waits_for_states_several_changes_of_usage_together() -> None:
    followed = Followed()
    await followed.place.of(a_job())
    followed.place.jobs.put(a_job("waits", "b", 3))
    followed.followers.used("a")
    followed.followers.wake()
    assert (followed.own.taken(), followed.own.later) == ([], ["team"])


async def test_a_budget_wakes_the_jobs_that_wait_only_when_it_has_more_room() -> None:
    followed = Followed()
    await followed.place.of(a_job())
    followed.reconciled(0, 8)
    assert followed.reconciled(3, 5) == [], "training has used what it had reserved"
    assert followed.reconciled(3, 6) == []
    assert followed.reconciled(4, 0) == ["waits"], "a reservation has ended"
    assert followed.reconciled(4, 0, running=0) == ["waits"], "one more may run"
    after = containing("Month", NOW).next
    assert followed.reconciled(4, 0, running=0, period=after) == ["waits"]


async def test_the_first_job_that_waits_is_woken_after_room_that_was_never_seen_taken() -> None:
    """While no job waits, a reservation is observed late, and may have ended before that."""
    followed = Followed()
    followed.place.jobs.put(a_job("waits", "b", 2))
    await followed.place.of(a_job())
    followed.reconciled(0, 0)
    followed.followers.used("a")
    followed.followers.wake()
    assert (followed.own.taken(), followed.own.later) == ([], ["team"]), "a job has reserved"
    followed.place.jobs.put(waits("waits", "b", 3))
    followed.followers.used("a")
    followed.followers.wake()
    assert followed.own.taken() == ["team"], "it was deleted"
    assert followed.reconciled(0, 0) == ["waits"]
    assert followed.reconciled(0, 0) == []


async def test_a_job_that_leaves_the_queue_wakes_those_that_it_held_up() -> None:
    followed = Followed()
    await followed.place.of(a_job())
    followed.place.jobs.put(waits("first", "a", 3))
    followed.reconciled(9, 0)
    followed.place.jobs.put(waits("last", "a", 4))
    assert followed.reconciled(9, 0) == []
    followed.place.jobs.put(a_job("first", "a", 5))
    assert followed.reconciled(9, 0) == ["first", "last", "waits"]
    assert followed.reconciled(9, 0) == []


def endpoint(name: str, place: str = "a", replicas: int = 1, version: int = 1) -> Thing:
    """Return the Deployment of a job's build."""
    owner = {"uid": f"uid-of-{name}", "controller": True, "kind": "FineTuneJob", "name": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": f"{name}-build",
            "namespace": place,
            "uid": f"uid-of-{name}-build",
            "resourceVersion": str(version),
            "labels": {**MANAGED, "finetune.dev/job": name},
            "ownerReferences": [owner],
        },
        "spec": {"replicas": replicas},
    }


def serving(place: Place, *names: str) -> None:
    for name in names:
        place.jobs.put(a_job(name))
        place.jobs.put(endpoint(name))


async def test_gpus_of_endpoints_are_granted_once() -> None:
    place = Place(budget("team", serving={"maxGpus": 3}), budget("company", serving={}))
    serving(place, "one", "mine")
    await place.of(a_job())
    assert place.budgets.grant(("a", "new"), 1)
    assert not place.budgets.grant(("a", "new"), 1), "it has it already"
    place.jobs.put(a_job("new"))
    assert (await place.of(a_job("new"))).serving_gpus == 1
    place.jobs.put(a_job("late"))
    assert not place.budgets.grant(("a", "late"), 2), "none is left"
    assert (await place.of(a_job("late"))).serving_gpus == 0
    place.jobs.put(endpoint("one", replicas=0, version=9))
    assert place.budgets.grant(("a", "late"), 2)
    assert (await place.of(a_job("late"))).serving_gpus == 1, "as many as there are"
    assert place.budgets.grant(("other", "stranger"), 5), "no budget limits its endpoint"


async def test_a_grant_is_free_again_if_no_pods_follow() -> None:
    place = Place(budget("team", serving={"maxGpus": 1}))
    now = 1000.0
    place.budgets.monotonic = lambda: now
    for name in ("one", "two"):
        place.jobs.put(a_job(name))
    await place.of(a_job())
    assert place.budgets.grant(("a", "one"), 1)
    assert not place.budgets.grant(("a", "two"), 1)
    now += GRANTED_FOR
    assert place.budgets.grant(("a", "two"), 1)
    assert place.budgets.serving_gpus("team") == 1


async def test_a_grant_ends_when_no_gpu_is_left_for_it() -> None:
    place = Place(budget("team", serving={"maxGpus": 1}))
    place.jobs.put(a_job("one"))
    await place.of(a_job())
    assert place.budgets.grant(("a", "one"), 1)
    serving(place, "another")
    assert place.budgets.grant(("a", "one"), 1), "it has lost the GPU"
    assert not place.budgets.grant(("a", "one"), 1), "nothing changes any more"
    assert (await place.of(a_job("one"))).serving_gpus == 0


async def test_an_endpoint_that_released_its_gpu_to_its_training_keeps_its_place() -> None:
    place = Place(budget("team", serving={"maxGpus": 1}))
    released = {"type": "Serving", "status": "False", "reason": "GPUReleased"}
    place.jobs.put(a_job("one", status={"conditions": [released]}))
    place.jobs.put(endpoint("one", replicas=0))
    await place.of(a_job())
    assert not place.budgets.grant(("a", "mine"), 1)


async def test_the_gpus_of_a_job_are_those_of_its_own_deployments_while_it_exists() -> None:
    place = Place(budget("team", serving={"maxGpus": 9}))
    serving(place, "one", "two")
    await place.of(a_job())
    foreign = endpoint("two", version=3)
    foreign["metadata"] |= {"name": "foreign", "labels": {**MANAGED, "finetune.dev/job": "one"}}
    place.jobs.put(foreign)
    assert place.budgets.serving_gpus("team") == 2, "a label makes no owner"
    moved = endpoint("two", replicas=3, version=4)
    moved["metadata"]["labels"] = {**MANAGED, "finetune.dev/job": "one"}
    place.jobs.put(moved)
    assert place.budgets.serving_gpus("team") == 1, "the job has it no longer"
    place.jobs.put(endpoint("one", replicas=4, version=5))
    assert place.budgets.serving_gpus("team") == 4
    place.jobs.remove(a_job("one", version=6))
    assert place.budgets.serving_gpus("team") == 0
    place.jobs.put(a_job("one", version=7))
    assert place.budgets.serving_gpus("team") == 4
    place.jobs.remove(endpoint("one", version=8))
    assert place.budgets.serving_gpus("team") == 0


def shared(name: str, replicas: int, version: int = 1) -> list[Thing]:
    """Return a FineTuneEndpoint with its Deployment."""
    metadata = {"namespace": "a", "resourceVersion": str(version), "generation": 1}
    own = {**metadata, "name": name, "uid": f"uid-of-{name}"}
    kind = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneEndpoint"}
    deployment = endpoint(name, replicas=replicas, version=version)
    deployment["metadata"]["labels"] = {**MANAGED, "finetune.dev/endpoint": name}
    deployment["metadata"]["ownerReferences"][0]["kind"] = "FineTuneEndpoint"
    return [{**kind, "metadata": own, "spec": {}}, deployment]


async def test_jobs_and_endpoints_share_the_gpus_of_a_budget() -> None:
    place = Place(budget("team", serving={"maxGpus": 2}))
    serving(place, "one")
    for each in shared("one", 0):
        place.endpoints.put(each)
    found = await place.budgets.of_endpoint(("a", "one"))
    assert found is not None
    assert (set(found.own), found.serving_gpus) == ({"team"}, 0)
    assert place.budgets.grant(("a", "one"), 1, "FineTuneEndpoint")
    found = await place.budgets.of_endpoint(("a", "one"))
    assert found is not None
    assert found.serving_gpus == 1
    assert (await place.of(a_job("one"))).serving_gpus == 0, "the job of the name has no grant"
    assert not place.budgets.grant(("a", "mine"), 1), "none is left"
    for each in shared("one", 1, version=2):
        place.endpoints.put(each)
    assert place.budgets.serving_gpus("team") == 2
    statement = await BudgetReader(live=place.budgets.live, budgets=place.budgets).read(
        ("", "team")
    )
    assert statement is not None
    assert statement.serving_gpus == 2


async def test_an_endpoint_has_accounts_only_if_a_budget_limits_endpoints() -> None:
    place = Place(budget("team"))
    assert await place.budgets.of_endpoint(("a", "one")) is None
    place.store.put(budget("team", 9, serving={"gpuHours": 100}))
    place.usages = {"a": namespace_usage(5)}
    found = await place.budgets.of_endpoint(("a", "one"))
    assert found is not None
    (balance,) = found.serving
    assert balance.serving is not None
    assert balance.serving.exhausted, "jobs have used the 100 hours"
    assert await place.budgets.of_endpoint(("other", "one")) is None, "no budget selects it"


async def test_an_endpoint_without_a_budget_reads_no_usage() -> None:
    place = Place(budget("team", serving={"gpuHours": 100}))
    reads = 0

    async def usage() -> Usage:
        nonlocal reads
        reads += 1
        return Usage(now=NOW, namespaces={})

    place.budgets.usage = usage
    assert await place.budgets.of_endpoint(("other", "one")) is None
    assert reads == 0
    assert await place.budgets.of_endpoint(("a", "one")) is not None
    assert reads == 1


async def test_namespaces_without_owners_are_forgotten() -> None:
    place = Place(budget("team", serving={"gpuHours": 100}))
    place.jobs.put(a_job("one"))
    place.jobs.put(a_job("two"))
    assert [*place.budgets.serving.namespaces()] == ["a"]
    place.jobs.remove(a_job("one", version=2))
    assert [*place.budgets.serving.namespaces()] == ["a"]
    place.jobs.remove(a_job("two", version=2))
    assert [*place.budgets.serving.namespaces()] == []


async def test_a_job_that_is_done_has_accounts_only_if_its_endpoint_is_limited() -> None:
    ended = [
        {"type": each, "status": "True", "observedGeneration": 1} for each in ("Finished", "Ready")
    ]
    done = a_job(status={"conditions": ended})
    place = Place(budget("team"))
    assert await place.budgets.of(done) is None
    place.store.put(budget("team", 9, serving={"gpuHours": 100}))
    (found,) = (await place.of(done)).serving
    assert found.serving is not None
    # Of training, 50 hours in the month before do not count.
    place.usages = {"a": namespace_usage(5)}
    (found,) = (await place.of(done)).serving
    assert found.serving is not None
    assert (found.serving.used, found.serving.exhausted) == (Amount(gpu_seconds=100 * HOUR), True)


async def test_an_exhausted_budget_of_endpoints_wakes_all_jobs_and_endpoints() -> None:
    followed = Followed()
    for each in shared("support", 1):
        followed.place.endpoints.put(each)
    await followed.place.of(a_job())

    def serving(hours: int) -> ServingBalance:
        used = Amount(gpu_seconds=hours * HOUR)
        return ServingBalance(limit=Bound(gpu_seconds=10 * HOUR), used=used)

    followed.reconciled(0, 0, serving=serving(8))
    assert followed.endpoints.taken() == ["support"], "a budget was created"
    assert followed.reconciled(0, 0, serving=serving(9)) == []
    assert followed.endpoints.taken() == []
    assert followed.reconciled(0, 0, serving=serving(10)) == ["runs", "waits"]
    assert followed.endpoints.taken() == ["support"]
    assert followed.reconciled(0, 0, serving=serving(11)) == []
    assert followed.reconciled(0, 0, serving=serving(0)) == ["runs", "waits"]
