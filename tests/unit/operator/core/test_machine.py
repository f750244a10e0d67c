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

from finetune_api.result import Result
from finetune_operator.children import names
from finetune_operator.config import OperatorConfig
from finetune_operator.plan import plan
from finetune_operator.state import Apply, Create, Delete, Object, Observed, Plan, Progress

UPGRADED = OperatorConfig.model_validate(
    {
        "images": {
            "trainer": "registry/trainer:2",
            "serving": "registry/vllm:2",
            "operator": "registry/operator:2",
        },
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
EDITS = st.one_of(
    st.sampled_from([{"training": {"seed": seed}} for seed in (None, 1, 2)]),
    st.sampled_from([{"merge": {"dtype": dtype}} for dtype in (None, "bfloat16")]),
    st.sampled_from([{"suspend": value} for value in (True, True, False)]),
    st.sampled_from(
        [
            {"storage": {"size": "80Gi"}},
            {"storage": {"size": None}},
            {"runPolicy": {"maxGpuSeconds": 3600}},
            {"serving": {"maxModelLen": 1024}},
            {"rerun": "a"},
        ]
    ),
    st.sampled_from(
        [
            {"serving": {"enabled": serving}, "merge": {"enabled": merging}}
            for serving, merging in ((True, True), (False, True), (False, False))
        ]
    ),
    st.sampled_from([{"training": {"maxSteps": steps, "epochs": steps}} for steps in (None, 5)]),
)
ANY = st.integers(0, 30)
DEATH = st.integers(0, 7)
REACTION = st.one_of(st.none(), st.just("settle"), DEATH)
"""What the operator does about a change: nothing yet, all that is due, or dies before a write."""


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


def delete_any(cluster: Cluster, index: int) -> str | None:
    """Delete a child by hand; return its kind."""
    if thing := chosen([each for each in cluster.objects.values() if not deleted(each)], index):
        workload.delete(cluster, thing["kind"], thing["metadata"]["name"])
        return str(thing["kind"])
    return None


WORLD = st.tuples(
    st.sampled_from(
        [start, finish, end_deleted, evict, sync_jobs, sync_deployments, collect, orphan]
    ),
    ANY,
)


def stage_of(thing: Thing) -> str:
    return str(thing["metadata"]["labels"].get(names.STAGE))


def refused(status: Any) -> bool:
    return bool(status["conditions"][0]["reason"] == "InvalidSpec")


def result_of(pod: Thing) -> str | None:
    """Return the outcome that a pod's termination message tells."""
    for container in pod["status"].get("containerStatuses", ()):
        result = Result.from_message(container["state"]["terminated"]["message"])
        return None if result is None else result.outcome
    return None


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
        self.completed: dict[tuple[str, ...], str] = {}
        """With the uid of the volume that holds what the stage made."""
        self.proved: set[tuple[str, ...]] = set()
        self.attempts: dict[tuple[str, ...], Thing] = {}
        self.wanted: dict[tuple[str, int], str] = {}
        self.lost_configuration = False
        self.lost_volume = False
        self.before: tuple[str, Thing] = ("", {})

    @initialize(past=st.lists(EDITS, max_size=2), rounds=st.integers(0, 12))
    def begin(self, past: list[Thing], rounds: int) -> None:
        """Start in the midst of things, after some edits that had time to take effect."""
        for changes in past:
            self.work(12)
            self.cluster.edit(**changes)
        self.work(rounds)

    # The operator.

    @precondition(lambda self: self.cluster.job)
    @rule(meanwhile=st.lists(WORLD, max_size=3), writes=st.one_of(st.none(), DEATH))
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
        self.carry_out(seen, intended, late=True)

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
                break
        else:
            raise AssertionError(f"no rest: {intended}")
        assert not any(isinstance(action, Create | Delete) for action in intended.actions)
        assert stored(intended.status) == self.cluster.status
        if "deletionTimestamp" not in seen.job["metadata"] and not refused(intended.status):
            self.as_asked(seen.job, intended.status)

    def react(self, reaction: Any) -> None:
        if reaction is None or not self.cluster.job:
            return
        if reaction == "settle":
            self.settle()
        else:
            self.carry_out(*self.planned(self.cluster.observe()), die_before=reaction)

    def as_asked(self, job: Object, status: Object) -> None:
        """What runs is what is asked for, and what it needs is there."""
        paused = job["spec"].get("suspend", False)
        for each in self.cluster.each("Job"):
            if names.owned_by(job, each) and not workload.ended(each) and not deleted(each):
                labels = each["metadata"]["labels"]
                assert not paused, each["metadata"]["name"]
                assert labels[names.REVISION] == status["revision"]
                assert labels.get(names.BUILD, status["build"]) == status["build"]
        if any(each["revision"] == status["revision"] for each in status["revisions"]):
            assert self.cluster.get("ConfigMap", f"demo-{status['revision']}")
            assert len(list(self.cluster.each("NetworkPolicy"))) == 3
        if status.get("serving", {}).get("build"):
            assert self.cluster.get("Service", "demo-serve")

    # The user.

    @precondition(lambda self: self.cluster.job)
    @rule(changes=EDITS, reaction=REACTION)
    def edit(self, changes: Thing, reaction: Any) -> None:
        self.cluster.edit(**changes)
        self.react(reaction)

    @rule(index=ANY, leave_pods=st.booleans(), reaction=REACTION)
    def delete_a_child(self, index: int, leave_pods: bool, reaction: Any) -> None:
        if leave_pods:
            orphan(self.cluster, index)
        else:
            kind = delete_any(self.cluster, index)
            self.lost_configuration |= kind == "ConfigMap"
            self.lost_volume |= kind == names.VOLUME
        self.react(reaction)

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

    @rule(step=WORLD, reaction=REACTION)
    def move(self, step: Any, reaction: Any) -> None:
        act, index = step
        act(self.cluster, index)
        self.react(reaction)

    @rule(index=ANY, end=st.sampled_from(sorted(ENDS)), reaction=REACTION)
    def end(self, index: int, end: str, reaction: Any) -> None:
        """Let a pod end, and its Job see that."""
        finish(self.cluster, index, end)
        sync_jobs(self.cluster, 0)
        self.react(reaction)

    @rule(rounds=st.integers(1, 3))
    def work(self, rounds: int) -> None:
        """Let everybody do their part for a while, so that late stages are reached."""
        for _ in range(rounds):
            if not self.go_round():
                break

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
        if seen.job["spec"].get("serving", {}).get("enabled", True):
            self.goes_on_serving(seen, intended)
        return seen, intended

    def goes_on_serving(self, seen: Observed, intended: Plan) -> None:
        """The Service leaves a build only for one that answers; what it selects is not deleted."""
        services = [each for each in seen.services if names.owned_by(seen.job, each)]
        for selected in (each["spec"]["selector"][names.BUILD] for each in services):
            answering = [
                names.label(each, names.BUILD)
                for each in seen.deployments
                if each["status"].get("availableReplicas")
                and each["status"]["observedGeneration"] == each["metadata"]["generation"]
            ]
            for action in intended.actions:
                build = names.label(action.object, names.BUILD)
                if isinstance(action, Delete) and action.object["kind"] == "Deployment":
                    assert build != selected
                if isinstance(action, Apply) and action.object["kind"] == "Service":
                    assert action.object["spec"]["selector"][names.BUILD] in (selected, *answering)

    def carry_out(
        self, seen: Observed, intended: Plan, *, die_before: int | None = None, late: bool = False
    ) -> bool:
        self.note_proofs()
        try:
            self.cluster.carry_out(seen, intended, die_before=die_before)
        except (Crash, Refused):
            return False
        finally:
            self.jobs_may_run(late=late)
            self.status_is_sound()
        return True

    def jobs_may_run(self, *, late: bool) -> None:
        """No stage is run that has completed, and none without a volume of its own."""
        for job in self.cluster.each("Job"):
            if job["metadata"]["uid"] in self.jobs:
                continue
            self.jobs.add(job["metadata"]["uid"])
            owner, revision, *_ = key_of(job)
            assert not self.is_done(key_of(job)), job["metadata"]["name"]
            volume = self.cluster.get("PersistentVolumeClaim", f"demo-{revision}")
            assert volume or late
            if volume and not late:
                assert volume["metadata"]["ownerReferences"][0]["uid"] == owner
                assert not deleted(volume)

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
        self.cluster.wait(1)
        self.one_trainer()
        self.note_proofs()

    def status_is_sound(self) -> None:
        """Hold what was written last against what was written before it."""
        if self.cluster.job and self.cluster.status.get("conditions"):
            uid = self.cluster.job["metadata"]["uid"]
            self.ledger_goes_forward(uid, self.cluster.status)
            self.well_formed(self.cluster.status)
            if self.before[0] == uid:
                self.consistent(self.before[1], self.cluster.status)
            self.before = (uid, self.cluster.status)
            self.no_revision_without_an_edit(self.cluster.job)

    def one_trainer(self) -> None:
        trainers = [
            pod["metadata"]["name"]
            for pod in self.cluster.each("Pod")
            if stage_of(pod) == "train" and workload.alive(pod)
        ]
        assert len(trainers) <= 1, trainers

    def note_proofs(self) -> None:
        """Remember which stages a Job has completed that left a result saying so."""
        for job in self.cluster.each("Job"):
            results = [result_of(pod) for pod in workload.pods_of(self.cluster, job)]
            if workload.ended(job) and "completed" in results:
                self.proved.add(key_of(job))

    def dropped_for_good(self, uid: str, status: Thing) -> None:
        """What leaves the ledger neither serves nor is asked for, and may be done again."""
        known = {each["revision"] for each in status.get("revisions", ())}
        for key in [key for key in self.attempts if key[0] == uid and key[1] not in known]:
            assert key[1] not in (status["revision"], status.get("serving", {}).get("revision"))
            del self.attempts[key]
            self.completed.pop(key, None)

    def is_done(self, key: tuple[str, ...]) -> bool:
        """Tell whether a stage has completed on a volume that is there and stays."""
        volume = self.cluster.get(names.VOLUME, f"demo-{key[1]}")
        here = volume is not None and not deleted(volume)
        return here and self.completed.get(key) == volume["metadata"]["uid"]  # type: ignore[index]

    def ledger_goes_forward(self, uid: str, status: Thing) -> None:
        self.dropped_for_good(uid, status)
        for revision in status.get("revisions", ()):
            for attempt in revision["stages"]:
                stage, build = attempt["stage"], str(attempt.get("build"))
                key = (uid, revision["revision"], stage, build)
                before = self.attempts.get(key, {"attempt": 0, "outcome": None})
                self.attempts[key] = attempt
                if attempt["attempt"] == before["attempt"] and before["outcome"] != "Starting":
                    assert attempt["retryKey"] == before["retryKey"], key
                elif before["outcome"] == "Failed":
                    assert attempt["retryKey"] != before["retryKey"], key
                assert attempt["attempt"] >= before["attempt"], key
                if stage == "serve":
                    # What answered once may be asked to show itself again.
                    continue
                if attempt.get("reason") == "VolumeLost":
                    assert self.lost_volume, "only a user's hand makes that happen"
                    self.completed.pop(key, None)
                if attempt["outcome"] == "Completed":
                    assert key in self.proved, key
                    self.completed[key] = revision.get("volume", "")
                else:
                    assert not self.is_done(key), key
                    self.completed.pop(key, None)
                if attempt.get("reason") in ("ResultMissing", "RetriesExhausted"):
                    name = f"demo-{revision['revision']}-{stage}-{attempt['attempt']}"
                    self.no_result_was_missed(name)

    def no_result_was_missed(self, name: str) -> None:
        job = self.cluster.get("Job", name)
        ends = [result_of(pod) for pod in workload.pods_of(self.cluster, job)] if job else []
        assert ends[-1:] not in (["completed"], ["failed"]), name

    def no_revision_without_an_edit(self, job: Thing) -> None:
        """Neither an upgrade nor anything else but its user makes a job train again."""
        revision = self.cluster.status.get("revision")
        frozen = self.cluster.get("ConfigMap", f"demo-{revision}")
        if self.lost_configuration or refused(self.cluster.status):
            return
        generation = self.cluster.status["observedGeneration"]
        key = (job["metadata"]["uid"], generation)
        if frozen and names.owned_by(job, frozen):
            assert self.wanted.setdefault(key, str(revision)) == revision

    def well_formed(self, status: Thing) -> None:
        found = {each["type"]: each for each in status["conditions"]}
        assert len(found) == len(status["conditions"])
        for name in ("Reconciling", "Stalled"):
            assert found.get(name, {"status": "True"})["status"] == "True"
        ready = found["Ready"]["status"] == "True"
        paused = found["Suspended"]["reason"] == "SuspendedByUser"
        states = [ready, paused, "Reconciling" in found, "Stalled" in found]
        invalid = refused(status)
        assert sum(states) == 1 or (invalid and not ready and "Reconciling" not in found), states
        generation = self.cluster.present_job()["metadata"]["generation"]
        assert status["observedGeneration"] <= generation
        current = {name for name, each in found.items() if name in ("Ready", "Stalled")}
        for name in current if invalid else found:
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
        if self.cluster.job:
            self.settle()
        for _ in range(60):
            if not self.go_round():
                break
        else:
            raise AssertionError(f"no end: {self.cluster.status['conditions'][0]}")
        if self.cluster.job is None:
            assert all(
                not each["metadata"].get("ownerReferences")
                for each in self.cluster.objects.values()
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
    max_examples=150,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
