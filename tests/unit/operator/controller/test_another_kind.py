"""The engine serves any of our own kinds: here a cluster-scoped one without children."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.fakes.kube_client import MemoryKube

import finetune_api
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.controller.apply import PlanExecutor
from finetune_operator.controller.controller import Controller
from finetune_operator.controller.reconciler import Reconciler
from finetune_operator.controller.resync import Resync
from finetune_operator.controller.running import RunningKind
from finetune_operator.kube.kinds import KINDS, Kind
from finetune_operator.kube.recorder import Recorder
from finetune_operator.snapshot.live import LiveReader
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.snapshot.watches import Watches
from finetune_operator.types import NO_JOBS, UNCONFIRMED, Confirmation, Key, Object, Plan
from finetune_operator.workqueue.workqueue import WorkQueue

CATALOG, KEY = "FineTuneCatalog", ("", "gold")


@dataclass(frozen=True)
class CatalogSnapshot:
    owner: Object

    def children(self, kind: str) -> tuple[Object, ...]:
        return ()


class CatalogPlanner:
    def plan(self, snapshot: CatalogSnapshot, *, now: datetime) -> Plan:
        models = len(snapshot.owner["spec"]["models"])
        condition = {"type": "Ready", "status": "True", "reason": f"Has{models}"}
        return Plan(status={"conditions": [condition]})

    def confirmation(self, snapshot: CatalogSnapshot, plan: Plan) -> Confirmation:
        return UNCONFIRMED

    def report(
        self,
        snapshot: CatalogSnapshot,
        *,
        reason: Reason,
        message: str,
        now: datetime,
        planned: Object | None = None,
        rejected: Object | None = None,
    ) -> Plan:
        raise AssertionError("nothing is rejected")


@dataclass
class CatalogReader:
    live: LiveReader

    async def read(
        self,
        key: Key,
        *,
        live: Set[str] = frozenset(),
        names: Iterable[tuple[str, str]] = (),
        created: Mapping[str, bool] = NO_JOBS,
    ) -> CatalogSnapshot | None:
        await self.live.refresh(key, live)
        owner = self.live.store.owner(key)
        return None if owner is None else CatalogSnapshot(owner)

    async def complete(self, key: Key, plan: Plan) -> bool:
        return False

    def wait(self, key: Key, snapshot: CatalogSnapshot, plan: Plan) -> float:
        return 0.0

    def forget(self, key: Key) -> None:
        """Nothing is remembered."""


class Observations:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def observed(self, key: Key, snapshot: CatalogSnapshot, status: Object) -> None:
        self.calls.append("observed")

    def written(self, snapshot: CatalogSnapshot, plan: Plan) -> None:
        self.calls.append("written")

    def forget(self, key: Key) -> None:
        self.calls.append("forgotten")


def catalog(version: int, *models: str) -> dict[str, Any]:
    return {
        "apiVersion": finetune_api.API_VERSION,
        "kind": CATALOG,
        "metadata": {"name": "gold", "uid": "u", "resourceVersion": str(version)},
        "spec": {"models": list(models)},
    }


async def test_a_cluster_scoped_kind_is_reconciled(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = Kind(api_version=finetune_api.API_VERSION, plural="catalogs", namespaced=False)
    monkeypatch.setitem(KINDS, CATALOG, kind)
    monkeypatch.setattr(Controller, "stopped", False)
    assert kind.path("", "gold") == "/apis/finetune.dev/v1alpha1/catalogs/gold"
    kube = MemoryKube()
    store = ObjectStore(Watches(own=CATALOG, owned={}))
    observations = Observations()
    controller = Controller(
        reconciler=Reconciler(
            store=store,
            reader=CatalogReader(LiveReader(kube=kube, store=store)),
            executor=PlanExecutor(kube=kube, recorder=Recorder(kube, instance="pod")),
            planner=CatalogPlanner(),
            telemetry=observations,
            clock=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        ),
        queue=WorkQueue("catalogs"),
    )
    resync = Resync(kube=kube, store=store, namespaces=(), recheck=controller.recheck)
    running = RunningKind(controller=controller, resync=resync)

    async def deliver(body: dict[str, Any]) -> str:
        kube.objects[CATALOG, "", "gold"] = body
        running.deliver("MODIFIED", dict(body))
        assert controller.queue.pop() == KEY
        result = await controller.process(KEY)
        controller.queue.done(KEY)
        return result

    def reason() -> str:
        found = kube.objects[CATALOG, "", "gold"]["status"]["conditions"][0]["reason"]
        return str(found)

    assert await deliver(catalog(1, "small")) == "success"
    assert reason() == "Has1"
    assert await deliver(catalog(20, "small", "large")) == "success"
    assert reason() == "Has2"
    assert observations.calls == ["written", "observed"] * 2
    del kube.objects[CATALOG, "", "gold"]
    running.deliver("DELETED", catalog(30))
    assert await controller.process(KEY) == "success"
    assert store.own_keys() == []
    assert observations.calls[-1] == "forgotten"
