"""Any order of events: users, kubelets, controllers, and an operator that dies or sees half.

What must hold after every step, whatever came before, is in the invariants; what must come in the
end, when everybody but the operator and the kubelets rests, is in ``teardown``.
"""

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from tests.unit.operator.core import workload
from tests.unit.operator.core.cluster import CONFIG, SPEC, Cluster, Crash, Refused, Thing, stored

from finetune_operator.children import names
from finetune_operator.config import OperatorConfig
from finetune_operator.plan import plan
from finetune_operator.state import Create, Delete, Observed, Plan, Progress

UPGRADED = OperatorConfig.model_validate(
    {
        "images": {"trainer": "registry/trainer:2", "serving": "registry/vllm:2"},
        "defaults": {"training": {"seed": 5}, "merge": {"dtype": "bfloat16"}},
    }
)
ENDS: dict[str, Callable[[str], tuple[int, str]]] = {
    "completed": lambda stage: (0, workload.message(stage, gpuSeconds=50.0)),
    "silent": lambda stage: (0, ""),
    "stopped with 0": lambda stage: (0, workload.message(stage, "stopped")),
    "failed for good": lambda stage: (81, workload.message(stage, "failed", reason="Diverged")),
    "failed for now": lambda stage: (75, workload.message(stage, "failed", reason="Transient")),
    "killed": lambda stage: (137, ""),
    "stopped": lambda stage: (143, workload.message(stage, "stopped", gpuSeconds=20.0)),
}
EDITS: list[Thing] = [
    *({"training": {"seed": seed}} for seed in (None, 1, 2)),
    *({"rerun": value} for value in (None, "a")),
    *({"merge": {"dtype": dtype}} for dtype in (None, "bfloat16")),
    *({"serving": {"maxModelLen": length}} for length in (None, 1024)),
    *({"storage": {"size": size}} for size in (None, "80Gi", "1Ti")),
    *({"runPolicy": {"maxGpuSeconds": seconds}} for seconds in (None, 3600)),
    *({"suspend": value} for value in (True, False)),
    *({"serving": {"enabled": value}, "merge": {"enabled": True}} for value in (True, False)),
    {"serving": {"enabled": False}, "merge": {"enabled": False}},
    {"training": {"maxSteps": 5, "epochs": 1}},
    {"training": {"maxSteps": None, "epochs": None}},
]
ANY = st.integers(0, 30)


def chosen(things: list[Thing], index: int) -> Thing | None:
    return things[index % len(things)] if things else None


def pods(cluster: Cluster, phase: str) -> list[Thing]:
    return [pod for pod in cluster.each("Pod") if pod["status"]["phase"] == phase]


def start(cluster: Cluster, index: int) -> None:
    if pod := chosen(pods(cluster, "Pending"), index):
        workload.start(cluster, pod)


def finish(cluster: Cluster, index: int, end: str = "completed") -> None:
    running = [pod for pod in pods(cluster, "Running") if stage_of(pod) != "serve"]
    if pod := chosen(running, index):
        workload.finish(cluster, pod, *ENDS[end](stage_of(pod)))


def end_deleted(cluster: Cluster, index: int) -> None:
    going = [pod for pod in cluster.each("Pod") if workload.alive(pod) and deleted(pod)]
    if pod := chosen(going, index):
        workload.stop(cluster, pod)


def evict(cluster: Cluster, index: int) -> None:
    if pod := chosen([pod for pod in cluster.each("Pod") if workload.alive(pod)], index):
        workload.evict(cluster, pod)


def sync_jobs(cluster: Cluster, index: int) -> None:
    for job in cluster.each("Job"):
        workload.sync_job(cluster, job)


def sync_deployments(cluster: Cluster, index: int) -> None:
    for deployment in cluster.each("Deployment"):
        workload.sync_deployment(cluster, deployment)


def collect(cluster: Cluster, index: int) -> None:
    workload.collect(cluster)


def orphan(cluster: Cluster, index: int) -> None:
    """Delete a Job by hand, one that runs where there is one, and leave its pods behind."""
    jobs = sorted(cluster.each("Job"), key=workload.ended)
    if job := chosen([job for job in jobs if not workload.ended(job)] or jobs, index):
        workload.delete(cluster, "Job", job["metadata"]["name"], "Orphan")


def delete_any(cluster: Cluster, index: int) -> None:
    if thing := chosen([each for each in cluster.objects.values() if not deleted(each)], index):
        workload.delete(cluster, thing["kind"], thing["metadata"]["name"])


WORLD = st.tuples(
    st.sampled_from(
        [start, finish, end_deleted, evict, sync_jobs, sync_deployments, collect, orphan]
    ),
    ANY,
)


def stage_of(thing: Thing) -> str:
    return str(thing["metadata"]["labels"].get(names.STAGE))


def deleted(thing: Thing) -> bool:
    return "deletionTimestamp" in thing["metadata"]


def key_of(job: Thing) -> tuple[str, ...]:
    """Return owner, revision, stage and build of a Job."""
    labels = job["metadata"]["labels"]
    owner = job["metadata"]["ownerReferences"][0]["uid"]
    return (owner, labels[names.REVISION], labels[names.STAGE], str(labels.get(names.BUILD)))


class Machine(RuleBasedStateMachine):
    """One FineTuneJob in a cluster in which anything may happen."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster(spec={**SPEC, "runPolicy": {"backoffLimit": 1}})
        self.held: tuple[Observed, Plan] | None = None
        self.jobs: set[str] = set()
        self.completed: set[tuple[str, ...]] = set()
        self.attempts: dict[tuple[str, ...], int] = {}
        self.before: tuple[str, Thing] = ("", {})

    @initialize(stage=st.sampled_from(["", "stage", "train", "train", "merge", "serve"]))
    def begin(self, stage: str) -> None:
        """Start where a pod of some stage runs, so that late stages are tried as often."""
        while stage and not any(stage_of(pod) == stage for pod in pods(self.cluster, "Running")):
            self.go_round()

    # The operator.

    @precondition(lambda self: self.cluster.job)
    @rule(meanwhile=st.lists(WORLD, max_size=3), writes=st.one_of(st.none(), st.integers(0, 7)))
    def look(self, meanwhile: list[Any], writes: int | None) -> None:
        """Look while the world moves, and perhaps die before some write."""

        def between() -> None:
            for step, index in meanwhile:
                step(self.cluster, index)

        seen = self.cluster.observe(between)
        self.carry_out(*self.planned(seen), die_before=writes)

    @precondition(lambda self: self.cluster.job)
    @rule()
    def look_and_hesitate(self) -> None:
        self.held = self.planned(self.cluster.observe())

    @precondition(lambda self: self.held)
    @rule()
    def act_late(self) -> None:
        assert self.held
        (seen, intended), self.held = self.held, None
        self.carry_out(seen, intended)

    @precondition(lambda self: self.cluster.job)
    @rule()
    def settle(self) -> None:
        """A look changes nothing once what the looks before it planned has been done."""
        for _ in range(6):
            version = self.cluster.version
            seen, intended = self.planned(self.cluster.observe())
            if not self.carry_out(seen, intended):
                return
            if self.cluster.version == version:
                assert not any(isinstance(action, Create | Delete) for action in intended.actions)
                assert stored(intended.status) == self.cluster.status
                return
        raise AssertionError(f"no rest: {intended}")

    # The user.

    @precondition(lambda self: self.cluster.job)
    @rule(changes=st.sampled_from(EDITS))
    def edit(self, changes: Thing) -> None:
        self.cluster.edit(**changes)

    @rule(index=ANY, leave_pods=st.booleans())
    def delete_a_child(self, index: int, leave_pods: bool) -> None:
        (orphan if leave_pods else delete_any)(self.cluster, index)

    @precondition(lambda self: self.cluster.job)
    @rule(children_first=st.booleans())
    def delete(self, children_first: bool) -> None:
        if children_first:
            self.cluster.delete_job()
        else:
            self.cluster.job = None

    @precondition(lambda self: not self.cluster.job)
    @rule()
    def submit(self) -> None:
        self.cluster.submit()

    # The cluster.

    @rule(step=WORLD)
    def move(self, step: Any) -> None:
        act, index = step
        act(self.cluster, index)

    @rule(index=ANY, end=st.sampled_from(sorted(ENDS)))
    def end(self, index: int, end: str) -> None:
        finish(self.cluster, index, end)

    @rule(rounds=st.integers(1, 3))
    def work(self, rounds: int) -> None:
        """Let everybody do their part for a while, so that late stages are reached."""
        for _ in range(rounds):
            self.go_round()

    @rule(seconds=st.sampled_from([1, 60, 700]), steps=st.integers(0, 9), upgrade=st.booleans())
    def go_on(self, seconds: int, steps: int, upgrade: bool) -> None:
        """Let time pass, progress be measured, and perhaps the operator be upgraded."""
        self.cluster.wait(seconds)
        self.cluster.progress = Progress(
            global_step=steps, max_steps=9, gpu_seconds=float(seconds % 97)
        )
        if upgrade:
            self.cluster.config = UPGRADED if self.cluster.config is CONFIG else CONFIG

    # What must hold.

    def planned(self, seen: Observed) -> tuple[Observed, Plan]:
        intended = plan(seen, config=self.cluster.config, now=self.cluster.now)
        if "deletionTimestamp" in seen.job["metadata"]:
            assert not intended.actions
        selected = [
            service["spec"]["selector"][names.BUILD]
            for service in seen.services
            if names.owned_by(seen.job, service)
        ]
        if seen.job["spec"].get("serving", {}).get("enabled", True):
            for action in intended.actions:
                if isinstance(action, Delete) and action.object["kind"] == "Deployment":
                    assert names.label(action.object, names.BUILD) not in selected
        return seen, intended

    def carry_out(self, seen: Observed, intended: Plan, *, die_before: int | None = None) -> bool:
        try:
            self.cluster.carry_out(seen, intended, die_before=die_before)
        except (Crash, Refused):
            return False
        return True

    def go_round(self) -> bool:
        """Let operator, kubelets and controllers act once; tell whether anything changed."""
        version = self.cluster.version
        if self.cluster.job:
            self.carry_out(*self.planned(self.cluster.observe()))
        for pod in list(self.cluster.each("Pod")):
            if pod["status"]["phase"] == "Running" and stage_of(pod) != "serve":
                workload.finish(self.cluster, pod, *ENDS["completed"](stage_of(pod)))
            if pod["status"]["phase"] == "Pending":
                workload.start(self.cluster, pod)
            if workload.alive(pod) and deleted(pod):
                workload.stop(self.cluster, pod)
        workload.sync(self.cluster)
        self.check()
        return self.cluster.version != version

    @invariant()
    def check(self) -> None:
        self.one_trainer()
        self.nothing_twice()
        if self.cluster.job and self.cluster.status.get("conditions"):
            uid = self.cluster.job["metadata"]["uid"]
            self.ledger_goes_forward(uid, self.cluster.status)
            self.well_formed(self.cluster.status)
            if self.before[0] == uid:
                self.consistent(self.before[1], self.cluster.status)
            self.before = (uid, self.cluster.status)

    def one_trainer(self) -> None:
        trainers = [
            pod["metadata"]["name"]
            for pod in self.cluster.each("Pod")
            if stage_of(pod) == "train" and workload.alive(pod)
        ]
        assert len(trainers) <= 1, trainers

    def nothing_twice(self) -> None:
        for job in self.cluster.each("Job"):
            if job["metadata"]["uid"] not in self.jobs:
                self.jobs.add(job["metadata"]["uid"])
                assert key_of(job) not in self.completed, job["metadata"]["name"]

    def ledger_goes_forward(self, uid: str, status: Thing) -> None:
        for revision in status.get("revisions", ()):
            for attempt in revision["stages"]:
                key = (uid, revision["revision"], attempt["stage"], str(attempt.get("build")))
                assert attempt["attempt"] >= self.attempts.get(key, 1), key
                self.attempts[key] = attempt["attempt"]
                if attempt["outcome"] == "Completed":
                    self.completed.add(key)
                else:
                    assert key not in self.completed, key

    def well_formed(self, status: Thing) -> None:
        found = {each["type"]: each for each in status["conditions"]}
        assert len(found) == len(status["conditions"])
        for name in ("Reconciling", "Stalled"):
            assert found.get(name, {"status": "True"})["status"] == "True"
        ready = found["Ready"]["status"] == "True"
        paused = found["Suspended"]["reason"] == "SuspendedByUser"
        states = [ready, paused, "Reconciling" in found, "Stalled" in found]
        refused = found["Ready"]["reason"] == "InvalidSpec"
        assert sum(states) == 1 or (refused and not ready and "Reconciling" not in found), states
        generation = self.cluster.present_job()["metadata"]["generation"]
        assert status["observedGeneration"] <= generation
        current = {name for name, each in found.items() if name in ("Ready", "Stalled")}
        for name in current if refused else found:
            assert found[name]["observedGeneration"] == status["observedGeneration"], name

    def consistent(self, before: Thing, after: Thing) -> None:
        known = {each["type"]: each for each in before["conditions"]}
        for each in after["conditions"]:
            old = known.get(each["type"])
            if old and old["status"] == each["status"]:
                assert old["lastTransitionTime"] == each["lastTransitionTime"], each["type"]
        if before.get("revision") == after.get("revision"):
            seconds = [one.get("training", {}).get("gpuSeconds", 0) for one in (before, after)]
            assert seconds[0] <= seconds[1]

    def teardown(self) -> None:
        """With a user who rests and kubelets that work, a job comes to its end."""
        self.held = None
        for _ in range(60):
            if not self.go_round():
                break
        else:
            raise AssertionError(f"no end: {self.cluster.status['conditions'][0]}")
        if self.cluster.job is None:
            assert all(
                not each["metadata"]["ownerReferences"] for each in self.cluster.objects.values()
            )
            return
        found = {each["type"]: each for each in self.cluster.status["conditions"]}
        spec = self.cluster.job["spec"]
        if found["Ready"]["status"] == "False" and "Stalled" not in found:
            assert spec.get("suspend"), found["Ready"]
            assert all(workload.ended(job) for job in self.cluster.each("Job"))
        if found["Ready"]["status"] == "True" and spec.get("serving", {}).get("enabled", True):
            (service,) = self.cluster.each("Service")
            (deployment,) = self.cluster.each("Deployment")
            build = service["spec"]["selector"][names.BUILD]
            assert build == names.label(deployment, names.BUILD) == self.cluster.status["build"]


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=200,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
