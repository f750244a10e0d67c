"""Jobs and an endpoint that share budgets, with the real planners, recorder of usage and gate.

One operator at a time leads. It may crash at each write, lose responses, and be away while pods and
jobs are deleted.
"""

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from tests.fakes import controllers
from tests.fakes.apiserver import SPEC, Cluster, Crash, Refused, Thing, copied
from tests.fakes.kube_client import MemoryKube
from tests.unit.operator.reconcile.laws_of_spending import HOUR, SpendingLaws
from tests.unit.operator.reconcile.spending_endpoint import SharedEndpoint

from finetune_operator.controller.usage import UsageRecorder
from finetune_operator.kube.errors import OperatorError, Transient
from finetune_operator.kube.kinds import FINETUNEENDPOINT, FINETUNEJOB, FINETUNEUSAGE
from finetune_operator.objects import naming
from finetune_operator.snapshot.budgets.budgets import Budgets
from finetune_operator.snapshot.budgets.surroundings import Surroundings
from finetune_operator.snapshot.gpu_usage import GpuUsage
from finetune_operator.snapshot.live import LiveReader
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.snapshot.watches import BUDGETS, ENDPOINTS
from finetune_operator.types import Object, Snapshot
from finetune_operator.usage.values import ReservationRequest

START = datetime(2030, 1, 24, 21, tzinfo=UTC)
LOOP = asyncio.new_event_loop()
T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return LOOP.run_until_complete(coroutine)


class Api(MemoryKube):
    """The API server: the FineTuneUsages are stored here, jobs and pods in the clusters."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.lose_reply = False
        labels = {"name": "ns", "labels": {"team": "vision"}}
        super().__init__({"apiVersion": "v1", "kind": "Namespace", "metadata": labels})

    async def list(self, kind: str, namespace: str = "", **how: Any) -> tuple[Object, ...]:
        if kind in (FINETUNEJOB, "Pod"):
            return tuple(each for each in self.world.objects() if each["kind"] == kind)
        return await super().list(kind, namespace, **how)

    async def replace_status(self, job: Object, status: Object) -> Object:
        before = self.usages()
        written = await super().replace_status(job, status)
        world = self.world
        world.laws.of_write(before, self.usages(), world.budgets, world.time)
        if self.lose_reply:
            self.lose_reply = False
            raise Transient("the connection was lost")
        return written

    def usages(self) -> Thing:
        usages: Thing = copied(
            {name: each for (kind, _, name), each in self.objects.items() if kind == FINETUNEUSAGE}
        )
        return usages


class Operator:
    """The parts of one process that decide about budgets, with what its watches have reported."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.store, self.endpoints = ObjectStore(), ObjectStore(ENDPOINTS)
        self.known = dict[tuple[str, str], Thing]()
        own = ObjectStore(BUDGETS)
        pods = GpuUsage(
            kube=world.api,
            store=self.store,
            endpoints=self.endpoints,
            resource="nvidia.com/gpu",
            clock=lambda: world.time,
        )
        self.recorder = UsageRecorder(pods=pods)
        self.budgets = Budgets(
            live=LiveReader(kube=world.api, store=own),
            jobs=self.store,
            endpoints=self.endpoints,
            usage=self.recorder.when_loaded,
            surroundings=Surroundings(kube=world.api),
            monotonic=lambda: world.time,
        )
        self.recorder.gate = self.budgets.admits
        self.watch()
        run(self.recorder._load())

    def watch(self) -> None:
        """Take all changes since the last call."""
        present = {(each["kind"], each["metadata"]["name"]): each for each in self.world.objects()}
        for key in self.known.keys() - present.keys():
            gone = self.known.pop(key)
            version = str(int(gone["metadata"]["resourceVersion"]) + 1)
            self._store_of(gone).remove(
                {**gone, "metadata": {**gone["metadata"], "resourceVersion": version}}
            )
        for key, each in present.items():
            self.known[key] = copied(each)
            self._store_of(each).put(self.known[key])
        for budget in self.world.budgets:
            self.budgets.live.store.put(budget)

    def _store_of(self, thing: Thing) -> ObjectStore:
        of_endpoint = naming.ENDPOINT in thing["metadata"].get("labels", {})
        return self.endpoints if of_endpoint or thing["kind"] == FINETUNEENDPOINT else self.store


@dataclass(kw_only=True)
class Job(Cluster):
    """A job of the team; its children have names and uids of their own."""

    world: "World"
    number: int

    def __post_init__(self) -> None:
        self.identities = 10_000 * self.number
        super().__post_init__()

    def observe(self, between: Callable[[], None] = lambda: None) -> Snapshot:
        self.world.watch()
        operator, found = self.world.operator, super().observe(between)
        return replace(
            found,
            accounts=run(operator.budgets.of(found.job)),
            usage=run(operator.recorder.read("ns")),
        )

    def grant(self) -> None:
        """Grant the GPUs that the endpoint needs, as the reader does before a plan is executed."""
        wanted = self.plan().serving_gpus
        if wanted is not None:
            self.world.operator.budgets.grant(("ns", self.name), wanted)

    def reserve(self, request: ReservationRequest) -> bool:
        try:
            return run(self.world.operator.recorder.reserve(request))
        except OperatorError:
            return False

    def add(self, thing: Mapping[str, Any]) -> Thing:
        """Create an object. The law of the reservation: a train Job comes after it."""
        labels = thing["metadata"].get("labels", {})
        if thing["kind"] == "Job" and labels.get(naming.STAGE) == "train":
            key = f"train/{self.present_job()['metadata']['uid']}/{labels[naming.REVISION]}"
            self.world.laws.of_start(self.world.api.usages(), key)
        return super().add(thing)

    @property
    def reason(self) -> str:
        found = [each for each in self.status.get("conditions", ()) if each["type"] == "Ready"]
        return str(found[0]["reason"]) if found else ""


@dataclass
class World:
    """A namespace, its jobs and its endpoint, and the operator that leads."""

    random: random.Random
    now: datetime = START
    jobs: list[Job] = field(default_factory=list)
    budgets: list[Thing] = field(default_factory=list)
    laws: SpendingLaws = field(default_factory=SpendingLaws)
    versions: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.api = Api(self)
        self.budget(12, "300.00", gpus=1)
        self.profile: Thing | None = None
        self.offer("2.00")
        self.shared = SharedEndpoint(now=self.now, versions=self.versions)
        self.operator = Operator(self)
        for number in range(1, 5):
            self.submit(number)

    @property
    def time(self) -> int:
        return int(self.now.timestamp())

    def objects(self) -> Iterator[Thing]:
        for job in self.jobs:
            yield from ([] if job.job is None else [job.job])
            yield from job.each("Pod")
            yield from job.each("Deployment")
        yield from self.shared.parts()

    def serving_gpus(self) -> int:
        """Return the GPUs of all endpoints; of two builds of a job, the larger one counts."""
        counts = (
            [each["spec"]["replicas"] for each in job.each("Deployment")] for job in self.jobs
        )
        return sum(max(each, default=0) for each in counts) + self.shared.gpus

    # The administrator.

    def budget(self, hours: int, cost: str, running: int = 3, gpus: int = 4, **values: Any) -> None:
        """Create or replace two budgets: of the team for a week, and of all for a month.

        gpus: those of endpoints at the same time.
        """
        training = {"gpuHours": hours, "maxRunning": running}
        for name, period, limits in (
            ("team", "Week", training),
            ("company", "Month", {"gpuHours": 10_000, "cost": cost}),
        ):
            metadata = {"name": name, "uid": name, "resourceVersion": str(next(self.versions))}
            serving = {"maxGpus": gpus, "gpuHours": 60} if name == "team" else {}
            spec = {
                "namespaceSelector": {},
                "period": period,
                "currency": "EUR",
                "serving": serving,
            }
            kind = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneBudget"}
            found = {**kind, "metadata": metadata, "spec": {**spec, "training": limits, **values}}
            self.budgets = [each for each in self.budgets if each["metadata"]["name"] != name]
            self.budgets.append(found)

    def offer(self, price: str | None) -> None:
        """Create or replace the profile, or delete it."""
        self.profile = (
            None
            if price is None
            else {
                "apiVersion": "finetune.dev/v1alpha1",
                "kind": "FineTuneProfile",
                "metadata": {"name": "small", "uid": "p", "generation": 1},
                "spec": {"price": {"perGpuHour": price, "currency": "EUR"}},
            }
        )
        for job in self.jobs:
            job.profiles = {} if self.profile is None else {"small": self.profile}

    # The team.

    def submit(self, number: int) -> None:
        hours = self.random.randint(1, 9)
        spec = {
            **copied(SPEC),
            "profile": "small",
            "runPolicy": {"maxGpuSeconds": hours * HOUR},
            "serving": {"enabled": number != 1, "idle": {"afterSeconds": 3600}},
        }
        job = Job(world=self, number=number, name=f"job-{number}", now=self.now, spec=spec)
        self.jobs.append(job)
        self.offer("2.00" if self.profile is None else self.profile["spec"]["price"]["perGpuHour"])

    def delete(self, job: Job) -> None:
        """Delete a job at once; the garbage collector follows. It is submitted again later."""
        job.job = None
        for _ in range(3):
            controllers.collect(job)

    # The operator.

    def watch(self) -> None:
        """Let the operator observe what has happened."""
        self.tick()
        self.laws.of_pods(self.objects_of("Pod"), self.time, watched=True)
        self.operator.watch()

    def fail_over(self) -> None:
        """Another process leads; what it has not observed is estimated."""
        self.laws.of_pods(self.objects_of("Pod"), self.time, watched=False)
        self.operator = Operator(self)

    def settle(self) -> None:
        self.watch()
        run(self.operator.recorder.settle())
        # A lost response is followed by another settlement.
        run(self.operator.recorder.settle())
        self.laws.of_settlement(self.api.usages(), self.time)

    def reconcile(self, job: Job, crash: int | None = None) -> None:
        before = self.serving_gpus()
        try:
            job.grant()
            job.reconcile(die_before=crash)
        except Crash:
            self.tick()
            self.fail_over()
        except Refused:
            pass
        self._check_endpoints(before)

    def reconcile_endpoint(self, crash: int | None = None) -> None:
        """Reconcile the FineTuneEndpoint if it exists. crash: before this action."""
        self.watch()
        if not self.shared.exists:
            return
        before, budgets = self.serving_gpus(), self.operator.budgets
        self.shared.accounts = run(budgets.of_endpoint(self.shared.key))
        wanted = self.shared.plan().serving_gpus
        if wanted is not None and budgets.grant(self.shared.key, wanted, FINETUNEENDPOINT):
            self.shared.accounts = run(budgets.of_endpoint(self.shared.key))
        self.shared.reconcile(crash)
        if crash is not None:
            self.fail_over()
        self._check_endpoints(before)

    def _check_endpoints(self, before: int) -> None:
        usages = self.api.usages()
        self.laws.of_endpoints(before, self.serving_gpus(), self.budgets, usages, self.time)

    # The cluster.

    def objects_of(self, kind: str) -> list[Thing]:
        return [each for each in self.objects() if each["kind"] == kind]

    def tick(self) -> None:
        """Set all clocks to the latest one."""
        self.now = max(self.now, self.shared.now, *(job.now for job in self.jobs))
        self.shared.now = self.now
        for job in self.jobs:
            job.now = self.now

    def wait(self, **duration: float) -> None:
        self.tick()
        self.now += timedelta(**duration)
        self.tick()

    def work(self, job: Job) -> None:
        """Let controllers and kubelets act once: pods start, and deleted ones terminate."""
        self.tick()
        for pod in list(job.each("Pod")):
            if controllers.alive(pod) and "deletionTimestamp" in pod["metadata"]:
                controllers.stop(job, pod)
            elif pod["status"]["phase"] == "Pending":
                controllers.start(job, pod)
        self.watch()
        controllers.sync(job)
        self.watch()

    def finish(self, job: Job) -> None:
        """Complete a stage whose pod runs."""
        self.tick()
        for pod in list(job.each("Pod")):
            stage = pod["metadata"]["labels"][naming.STAGE]
            if pod["status"]["phase"] == "Running" and stage != "serve":
                controllers.finish(job, pod, 0, controllers.message(stage))
        self.watch()
        controllers.sync(job)

    def work_endpoint(self, *, reports: bool = True) -> None:
        """Let the controllers and kubelets of the FineTuneEndpoint act once."""
        self.tick()
        self.shared.work(reports=reports)
        self.watch()

    def lose(self, job: Job) -> None:
        """Remove a pod whose node is gone, without a report of its end."""
        running = [each for each in job.each("Pod") if each["status"]["phase"] == "Running"]
        if running:
            job.remove(self.random.choice(running))
