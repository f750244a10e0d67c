"""Random histories: users, kubelets, Kueue, and operators that crash, lag behind or act late.

The laws that hold at every moment and in the end are in ``laws``; the events in ``random_events``.
"""

import marshal
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.fakes import controllers, scheduler
from tests.fakes.apiserver import CONFIG, SPEC, Cluster, Crash, OtherContent, Refused, Thing
from tests.fakes.lagging_operator import KINDS, LaggingOperator
from tests.unit.operator.reconcile import laws_of_trust, random_deletions, random_events
from tests.unit.operator.reconcile.laws import Laws
from tests.unit.operator.reconcile.random_events import (
    COMPLETED,
    EDITS,
    ENDS,
    STEPS,
    completed,
    deleted,
    stage_of,
)

from finetune_api.policy.limits import Limits
from finetune_operator.config import GpuConfig, Settings
from finetune_operator.objects import naming
from finetune_operator.reconcile.plan import plan
from finetune_operator.types import LISTS, Plan, PodProgress, Snapshot

OPEN = {"publishDestinations": {"allow": [".*"]}}
PRESENT = CONFIG.model_copy(update={"policy": Limits.model_validate(OPEN)})
UPGRADED = Settings.model_validate(
    {
        "images": {
            "trainer": "registry/trainer:2",
            "serving": "registry/vllm:2",
            "operator": "registry/operator:2",
        },
        "defaults": {"training": {"seed": 5}, "merge": {"dtype": "bfloat16"}},
        "policy": OPEN,
    }
)
PLENTY = 9
"""More GPUs than the pods of a job need."""
ANY = st.integers(0, 30)
WRITE = st.integers(0, 7)
"""The operator crashes before this write of a plan, or the write fails: no other follows."""
REACTION = st.one_of(st.none(), st.just("settle"), WRITE)
"""The operator's reaction to a change: none, as if the event were lost, all writes, or some."""
LAG = st.dictionaries(st.sampled_from(KINDS), st.integers(1, 4), max_size=4)
"""Number of events by which the cache of an operator lags behind the cluster, by kind."""


def content(snapshot: Snapshot) -> bytes:
    """Return all objects of a snapshot as bytes, which are faster to compare than a copy."""
    fields = [getattr(snapshot, name) for name in ("job", "events", *LISTS.values())]
    return marshal.dumps(fields, 2)


class Machine(RuleBasedStateMachine):
    """One FineTuneJob in a cluster with random events."""

    histories = 0
    releases = 0

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster(spec={**SPEC, "runPolicy": {"backoffLimit": 1}}, config=PRESENT)
        self.laws = Laws(self.cluster)
        self.held: tuple[Snapshot, Plan] | None = None
        self.skew = timedelta()
        self.leader, self.standby = LaggingOperator(self.cluster), LaggingOperator(self.cluster)

    @initialize(past=st.lists(EDITS, max_size=2), rounds=st.integers(0, 12))
    def begin(self, past: list[Thing], rounds: int) -> None:
        """Start after some edits that had time to take effect."""
        for changes in past:
            self.work(12)
            self.cluster.edit(**changes)
        self.work(rounds)

    # The operator.

    @precondition(lambda self: self.cluster.job)
    @rule(meanwhile=st.lists(STEPS, max_size=3), write=st.one_of(st.none(), WRITE))
    def reconcile(self, meanwhile: list[Any], write: int | None) -> None:
        """Reconcile while the cluster changes, and perhaps crash before a write."""

        def between() -> None:
            for step, index in meanwhile:
                step(self.cluster, index)

        self.leader.catch_up()
        self.reconcile_once(between, die_before=write)

    @rule(lag=LAG, other=LAG)
    def fall_behind(self, lag: dict[str, int], other: dict[str, int]) -> None:
        """From now on, the last events of some kinds are late."""
        self.leader.lag, self.standby.lag = lag, other

    @rule()
    def restart(self) -> None:
        """The operator restarts, and lists all objects."""
        self.leader.start()

    @precondition(lambda self: self.cluster.job)
    @rule()
    def plan_and_delay(self) -> None:
        self.leader.catch_up()
        self.held = self.planned()

    @precondition(lambda self: self.held)
    @rule()
    def act_late(self) -> None:
        assert self.held
        (snapshot, intended), self.held = self.held, None
        self.carry_out(snapshot, intended, late=True)

    @precondition(lambda self: self.cluster.job)
    @rule(write=WRITE, changes=st.one_of(st.none(), EDITS), upgrade=st.booleans())
    def hand_over(self, write: int, changes: Thing | None, upgrade: bool) -> None:
        """A replica loses the Lease during a write, which arrives after the new leader's."""
        self.leader.catch_up()
        held = self.planned()
        if held is not None:
            self.carry_out(*held, die_before=write)
        if changes is not None:
            self.cluster.edit(**changes)
        if upgrade:
            self.upgrade()
        self.leader, self.standby = self.standby, self.leader
        self.leader.catch_up()
        self.reconcile_once()
        if held is not None:
            self.carry_out(*held, only=write, late=True)
        self.standby.start()

    @precondition(lambda self: self.cluster.job)
    @rule()
    def settle(self) -> None:
        """A reconcile changes nothing after the earlier plans have been carried out."""
        for _ in range(6):
            version = self.cluster.version
            self.leader.catch_up({})
            observed = self.planned()
            assert observed is not None
            snapshot, intended = observed
            if not self.carry_out(snapshot, intended):
                return
            if self.cluster.version == version:
                break
        else:
            raise AssertionError(f"the job does not settle: {intended}")
        self.laws.of_rest(snapshot, intended)

    @rule(days=st.sampled_from([-3650, -1, 0, 1, 3650]))
    def clock_jumps(self, days: int) -> None:
        """Change the clock of the operator's machine, not that of the API server's."""
        self.skew = timedelta(days=days)
        self.laws.skew = max(self.laws.skew, abs(self.skew))

    def react(self, reaction: Any) -> None:
        if reaction is None or not self.cluster.job:
            return
        if reaction == "settle":
            self.settle()
        else:
            self.leader.catch_up()
            self.reconcile_once(die_before=reaction)

    def reconcile_once(
        self, between: Callable[[], None] = lambda: None, die_before: int | None = None
    ) -> None:
        """Plan with the events that have been delivered, and execute the plan."""
        observed = self.planned(between)
        if observed is not None:
            self.carry_out(*observed, die_before=die_before)

    def planned(self, between: Callable[[], None] = lambda: None) -> tuple[Snapshot, Plan] | None:
        """Return a confirmed plan and its snapshot, None if the job does not exist."""
        now = self.cluster.now + self.skew
        observed = self.leader.observe(now, self.cluster.config, between)
        if observed is None:
            return None
        snapshot, intended = observed
        before = content(snapshot)
        assert plan(snapshot, now=now) == intended
        assert content(snapshot) == before, "a plan leaves its input unchanged"
        self.laws.of_plan(snapshot, intended)
        if self.cluster.foreign:
            trusted = plan(self.without_foreign(snapshot), now=now)
            copied = laws_of_trust.copies(snapshot, self.cluster.foreign)
            laws_of_trust.of_hostile_objects(intended, trusted, copied)
        return snapshot, intended

    def without_foreign(self, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot without the objects that a tenant made."""
        own = tuple(
            each
            for each in snapshot.configmaps
            if each["metadata"]["uid"] not in self.cluster.foreign
        )
        return replace(snapshot, configmaps=own)

    def carry_out(
        self, snapshot: Snapshot, intended: Plan, *, late: bool = False, **which: int | None
    ) -> bool:
        self.laws.record_completed_stages()
        operator = self.leader
        try:
            self.cluster.carry_out(
                snapshot, intended, on_write=(lambda _: None) if late else operator.wrote, **which
            )
        except (Crash, Refused) as error:
            if isinstance(error, OtherContent) and not late:
                operator.found(error.existing)
                # It reconciles at once, which is a change even if nothing was written.
                self.cluster.version += 1
            operator.failed()
            return False
        finally:
            self.laws.of_writes(late=late)
        return True

    # The user.

    @precondition(lambda self: self.cluster.job)
    @rule(changes=EDITS, reaction=REACTION)
    def edit(self, changes: Thing, reaction: Any) -> None:
        self.cluster.edit(**changes)
        self.react(reaction)

    @rule(index=ANY, leave_pods=st.booleans(), reaction=REACTION)
    def delete_a_child(self, index: int, leave_pods: bool, reaction: Any) -> None:
        if leave_pods:
            random_events.orphan(self.cluster, index)
        else:
            kind = random_deletions.delete_any(self.cluster, index)
            self.laws.lost_volume |= kind == naming.VOLUME
        self.react(reaction)

    @rule(index=ANY, reaction=REACTION)
    def delete_a_volume(self, index: int, reaction: Any) -> None:
        self.laws.lost_volume |= random_deletions.delete_volume(self.cluster, index)
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
        """Submit the job again; it may use claims that the earlier job had not taken over yet."""
        controllers.allow_reuse(self.cluster)
        self.laws.of_forgotten()
        self.cluster.submit()

    @precondition(lambda self: self.cluster.job and not deleted(self.cluster.job))
    @rule(owners=st.booleans(), reaction=REACTION)
    def restore(self, owners: bool, reaction: Any) -> None:
        """The namespace is deleted, and restored from a backup of its last state."""
        self.laws.record_completed_stages()
        self.laws.of_restored(controllers.restore(self.cluster, owners=owners))
        self.react(reaction)

    @precondition(lambda self: self.cluster.job and not deleted(self.cluster.job))
    @rule(reaction=REACTION)
    def restore_without_status(self, reaction: Any) -> None:
        """The namespace is restored without the ledger; the job may use the claims."""
        controllers.restore(self.cluster, status=False, reuse=True)
        self.laws.of_forgotten()
        self.react(reaction)

    # The cluster.

    @rule(step=STEPS, reaction=REACTION)
    def move(self, step: Any, reaction: Any) -> None:
        act, index = step
        act(self.cluster, index)
        self.react(reaction)

    @rule(index=ANY, end=st.sampled_from([COMPLETED, *sorted(ENDS)]), reaction=REACTION)
    def end(self, index: int, end: str, reaction: Any) -> None:
        """Let a pod end, and update its Job."""
        random_events.finish(self.cluster, index, end)
        random_events.sync_jobs(self.cluster, 0)
        self.react(reaction)

    @rule(rounds=st.integers(1, 3), gpus=st.sampled_from([PLENTY, 1]))
    def work(self, rounds: int, gpus: int = PLENTY) -> None:
        """Let all controllers work for a while, so that late stages are reached."""
        for _ in range(rounds):
            if not self.act_once(gpus):
                break

    @precondition(lambda self: self.cluster.job)
    @rule(seed=st.integers(3, 4), gpus=st.sampled_from([1, 1, PLENTY]))
    def train_on_one_gpu(self, seed: int, gpus: int) -> None:
        """Train another revision while the only GPU serves, for long enough to have it released."""
        self.cluster.edit(training={"seed": seed}, suspend=False)
        for _ in range(6):
            self.act_once(gpus=1)
        self.react("settle")
        self.cluster.wait(700)
        self.react("settle")
        self.act_once(gpus)

    @precondition(lambda self: self.cluster.job)
    @rule(serves=st.booleans(), limit=st.sampled_from([None, 0]))
    def lose_the_newest_model(self, serves: bool, limit: int | None) -> None:
        """Train a revision, delete its volume, and train another one."""
        changes = {"serving": {"enabled": serves}, "revisionHistoryLimit": limit, "suspend": False}
        self.cluster.edit(training={"seed": 7}, **changes)
        self.work(8)
        revision = self.cluster.job and self.cluster.status.get("revision")
        claim = self.cluster.get(naming.VOLUME, f"demo-{revision}")
        if self.cluster.job and claim and not deleted(claim):
            self.cluster.mark_deleted(claim)
            self.laws.lost_volume = True
            self.react("settle")
            self.cluster.edit(training={"seed": 8})
            self.work(3)

    def act_once(self, gpus: int = PLENTY) -> bool:
        """Let operator, kubelets, Kueue and controllers act once; report a change."""
        version = self.cluster.version
        if self.cluster.job:
            self.leader.catch_up()
            self.reconcile_once()
        for job in self.cluster.each("Job"):
            if job["spec"].get("suspend"):
                controllers.admit(self.cluster, job)
        for pod in self.cluster.each("Pod"):
            if pod["status"]["phase"] == "Running" and stage_of(pod) != "serve":
                controllers.finish(self.cluster, pod, *completed(self.cluster, pod))
            if controllers.alive(pod) and deleted(pod):
                controllers.stop(self.cluster, pod)
        for pod in self.cluster.each("Pod"):
            if pod["status"]["phase"] == "Pending":
                if scheduler.needs_gpu(pod) and self.gpus_in_use() >= gpus:
                    scheduler.refuse(self.cluster, pod)
                else:
                    controllers.start(self.cluster, pod)
        controllers.sync(self.cluster)
        self.check()
        return self.cluster.version != version

    def gpus_in_use(self) -> int:
        return sum(map(scheduler.needs_gpu, random_events.pods(self.cluster, "Running")))

    @rule(
        seconds=st.sampled_from([1, 60, 700]),
        steps=st.integers(0, 9) | st.just(2**53),
        gpu_seconds=st.sampled_from([1.0, 60.0, 2.0**53]),
        card=st.sampled_from([None, *GpuConfig().products]),
        upgrade=st.booleans(),
    )
    def advance(
        self, seconds: int, steps: int, gpu_seconds: float, card: str | None, upgrade: bool
    ) -> None:
        """Advance the time, report progress, and perhaps upgrade the operator."""
        self.cluster.wait(seconds)
        self.cluster.progress = PodProgress(
            pod="",
            global_step=steps,
            max_steps=9,
            gpu_seconds=gpu_seconds,
            last_checkpoint_step=steps // 2,
            card=card,
        )
        if upgrade:
            self.upgrade()

    def upgrade(self) -> None:
        self.cluster.config = UPGRADED if self.cluster.config is PRESENT else PRESENT

    @invariant()
    def check(self) -> None:
        self.cluster.wait(1)
        self.leader.record()
        self.standby.record()
        self.laws.of_now()

    def teardown(self) -> None:
        """Without further edits and with working kubelets, a job reaches its end."""
        self.held = None
        self.leader.lag = {}
        if self.cluster.job:
            self.settle()
        for _ in range(60):
            random_deletions.delete_ended_orphans(self.cluster)
            if not self.act_once():
                break
        else:
            raise AssertionError(f"the job does not end: {self.cluster.status['conditions'][0]}")
        self.laws.of_the_end()
        Machine.histories += 1
        Machine.releases += bool(self.laws.gpu.releases)


@pytest.mark.timeout(2400)  # with many examples, at low priority next to the end-to-end tests
def test_random_histories_keep_the_laws(capsys: pytest.CaptureFixture[str]) -> None:
    many = settings(stateful_step_count=30)
    Machine.histories = Machine.releases = 0
    run_state_machine_as_test(Machine, settings=many)
    assert Machine.histories >= many.max_examples
    with capsys.disabled():
        print(
            f"\n    random histories of a job: {Machine.histories}, each kept the laws; in "
            f"{Machine.releases} the GPU was released"
        )
