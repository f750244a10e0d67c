"""Observed → Plan. Pure: no I/O, no clock, no environment.

A job goes through its stages in order. Of each stage the ledger in ``status`` says whether it has
completed, failed for good, or is under way; what is under way is looked up among the children.
Every look starts from the first stage, so there is no state but what the cluster holds, and an
operator that restarts, or misses an event, does the same as one that does not.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from finetune_api.resolve import InvalidSpec
from finetune_api.status import Attempt
from finetune_operator import diagnosis, outcome
from finetune_operator.children import jobs, names, network, volume
from finetune_operator.children.names import Stage
from finetune_operator.conditions import (
    CONDITION_OF,
    SUSPENDED,
    Position,
    ServingState,
    conditions,
    latest_attempts,
    wanted_stages,
)
from finetune_operator.config import OperatorConfig
from finetune_operator.ledger import Ledger
from finetune_operator.revisions import Chosen, choose, configmap
from finetune_operator.rollout import Rollout
from finetune_operator.state import Action, Apply, Create, Delete, Event, Object, Observed, Plan
from finetune_operator.training import training_status

IN_PROGRESS = {"stage": "Staging", "train": "Training", "merge": "Merging"}
DOING: dict[str, str] = {
    "stage": "downloading, checking and tokenising model and data",
    "train": "training the adapter",
    "merge": "merging base and adapter",
}
POLL_SECONDS = 15.0
"""Pace of looks while something moves that sends no event: progress, a pod that cannot start."""
SLOW_POLL_SECONDS = 60.0
SLOW_AFTER_SECONDS = 300.0


def plan(seen: Observed, *, config: OperatorConfig, now: datetime) -> Plan:
    """Return what to do about a job.

    now: the time of the look, timezone-aware; it dates transitions and measures deadlines.
    """
    if "deletionTimestamp" in seen.job["metadata"]:
        # The garbage collector deletes what the job owns; creating anything now would undo that.
        return Plan(status=seen.job.get("status", {}))
    try:
        chosen = choose(seen.job, seen.configmaps, config)
    except InvalidSpec as error:
        return report(seen, reason="InvalidSpec", message=str(error), now=now)
    return _Planner(seen, chosen, config, now).plan()


def report(seen: Observed, *, reason: str, message: str, now: datetime) -> Plan:
    """Return a plan that says why nothing can be done: the status of before, but Stalled."""
    status = dict(seen.job.get("status", {}))
    generation = seen.job["metadata"]["generation"]
    previous = status.get("conditions", [])
    stalled = conditions(
        Position(state="stalled", reason=reason, message=message),
        previous=previous,
        generation=generation,
        now=now,
        stages={},
        serving=None,
    )
    known = {condition["type"] for condition in previous}
    told = [
        new for new in stalled if new["type"] in ("Ready", "Stalled") or new["type"] not in known
    ]
    kept = {new["type"] for new in told} | {"Reconciling"}
    told += [old for old in previous if old["type"] not in kept]
    status |= {"observedGeneration": generation, "conditions": told}
    return Plan(status=status, events=_transitions(previous, status["conditions"]))


class _Planner:
    """One look at one job. ``actions`` and ``ledger`` fill while its stages are walked through."""

    def __init__(
        self, seen: Observed, chosen: Chosen, config: OperatorConfig, now: datetime
    ) -> None:
        self.seen, self.chosen, self.config, self.now = seen, chosen, config, now
        self.job = seen.job
        self.spec = chosen.resolved.spec
        self.status: Mapping[str, Any] = seen.job.get("status", {})
        self.ledger = Ledger(self.status.get("revisions", ()))
        self.jobs = {
            job["metadata"]["name"]: job for job in seen.jobs if names.owned_by(self.job, job)
        }
        self.actions: list[Action] = []
        self.warnings: list[str] = []

    def plan(self) -> Plan:
        """Walk through the stages and return the plan."""
        self._abandon_others()
        stages = wanted_stages(self.spec)
        rollout = Rollout(self.seen, self.chosen, self.ledger)
        position = self._first_unfinished(stages) or rollout.position()
        self.actions += rollout.actions
        serving = rollout.state()
        attempts = latest_attempts(self.ledger, self.chosen.revision, self.chosen.build, stages)
        previous = self.status.get("conditions", [])
        generation = self.job["metadata"]["generation"]
        current = conditions(
            position,
            previous=previous,
            generation=generation,
            now=self.now,
            stages=attempts,
            serving=serving,
        )
        return Plan(
            status=self._status(current, serving, generation),
            actions=tuple(self.actions),
            events=_transitions(previous, current),
            requeue_after=position.requeue_after,
        )

    def _abandon_others(self) -> None:
        """Stop what runs for a revision or build that is no longer asked for."""
        for job in self.jobs.values():
            revision, build = names.label(job, names.REVISION), names.label(job, names.BUILD)
            wanted = revision == self.chosen.revision and build in (None, self.chosen.build)
            if wanted or revision is None or outcome.is_over(job):
                continue
            self._stop(job, revision, build)

    def _stop(self, job: Object, revision: str, build: str | None) -> None:
        if "deletionTimestamp" not in job["metadata"]:
            self.actions.append(Delete(object=job))
        stage: Any = names.label(job, names.STAGE)
        attempt = self.ledger.attempt(revision, stage, build)
        if attempt is not None and attempt.outcome in ("Starting", "Running"):
            stopped = attempt.model_copy(update={"outcome": "Stopped"})
            self.ledger.record(revision, stopped)

    def _first_unfinished(self, stages: tuple[Stage, ...]) -> Position | None:
        for stage in stages:
            position = self._at(stage)
            if position is not None:
                return position
        return None

    def _at(self, stage: Stage) -> Position | None:
        """Return where the job stands in a stage, or None if it has completed."""
        build = self.chosen.build if stage == "merge" else None
        attempt = self.ledger.attempt(self.chosen.revision, stage, build)
        if attempt is not None and attempt.outcome == "Completed":
            return None
        if attempt is not None and attempt.outcome == "Failed":
            if attempt.retry_key == self.chosen.resolved.retry_key:
                return Position(
                    state="stalled",
                    reason=attempt.reason or "Failed",
                    message=attempt.message or f"the {stage} stage failed",
                )
        elif attempt is not None and attempt.outcome in ("Starting", "Running"):
            job = self.jobs.get(self._name(stage, attempt.attempt))
            if job is not None and "deletionTimestamp" not in job["metadata"]:
                return self._follow(stage, attempt, job)
        return self._start(stage, attempt, build)

    def _follow(self, stage: Stage, attempt: Attempt, job: Object) -> Position | None:
        """Return where a Job stands, or None if it has completed; the ledger keeps its end."""
        ended = outcome.of(job, self.seen.pods)
        if ended is None:
            if self.spec.suspend:
                self._stop(job, self.chosen.revision, attempt.build)
                return self._suspended()
            self._record(attempt, outcome="Running")
            return self._under_way(stage, job)
        if ended.result is not None:
            self.ledger.note(self.chosen.revision, ended.result.artifacts)
            self.warnings += ended.result.warnings
        if ended.kind == "Completed":
            self._record(attempt, outcome="Completed", reason=None, message=ended.message or None)
            return None
        if ended.kind == "Unproved":
            self._record(attempt, outcome="Stopped", reason=ended.reason, message=ended.message)
            return self._at(stage)
        self._record(
            attempt,
            outcome="Failed",
            reason=ended.reason,
            message=ended.message,
            retry_key=self.chosen.resolved.retry_key,
        )
        return Position(state="stalled", reason=ended.reason, message=ended.message)

    def _record(self, attempt: Attempt, **changes: Any) -> None:
        self.ledger.record(self.chosen.revision, attempt.model_copy(update=changes))

    def _under_way(self, stage: Stage, job: Object) -> Position:
        own = outcome.pods_of(job, self.seen.pods)
        blocker = diagnosis.of_job(job, own, self.seen.events)
        if blocker is None:
            age = self._age(own[-1] if own else job)
            pace = POLL_SECONDS if age < SLOW_AFTER_SECONDS else SLOW_POLL_SECONDS
            return Position(
                state="active",
                reason=IN_PROGRESS[stage],
                message=DOING[stage],
                requeue_after=pace,
            )
        deadline = self.spec.run_policy.pending_deadline_seconds
        overdue = not blocker.waits and self._age(job) > deadline
        return Position(
            state="stalled" if overdue else "active",
            reason=blocker.reason,
            message=blocker.message,
            requeue_after=POLL_SECONDS,
        )

    def _age(self, thing: Object) -> float:
        created = thing["metadata"].get("creationTimestamp")
        return (self.now - datetime.fromisoformat(created)).total_seconds() if created else 0.0

    def _start(self, stage: Stage, attempt: Attempt | None, build: str | None) -> Position:
        if self.spec.suspend:
            return self._suspended()
        if busy := self._still_there(stage):
            return Position(
                state="active",
                reason="WaitingForPod",
                message=f"waiting for {busy} to end before the {stage} stage starts",
                requeue_after=POLL_SECONDS,
            )
        number = self._next_number(stage, attempt)
        self.ledger.record(
            self.chosen.revision,
            Attempt(stage=stage, build=build, attempt=number, outcome="Starting"),
        )
        if stage == "stage":
            self.actions += [Create(object=policy) for policy in self._policies()]
            self.actions.append(Create(object=configmap(self.job, self.chosen)))
        self.actions += self._volume()
        self.actions.append(Create(object=jobs.render(self.job, self.chosen, stage, number)))
        return Position(
            state="active",
            reason=IN_PROGRESS[stage],
            message=DOING[stage],
            requeue_after=POLL_SECONDS,
        )

    def _volume(self) -> list[Action]:
        """Create the volume, or ask for more room in the one that is there."""
        wanted = volume.render(self.job, self.chosen)
        for present in self.seen.volumes:
            if present["metadata"]["name"] == wanted["metadata"]["name"]:
                same = present["spec"]["resources"] == wanted["spec"]["resources"]
                return [] if same else [Apply(object=wanted)]
        return [Create(object=wanted)]

    def _policies(self) -> list[dict[str, Any]]:
        return network.render(self.job, self.config.operator_namespace)

    def _suspended(self) -> Position:
        return Position(
            state="suspended",
            reason=SUSPENDED,
            message="paused by spec.suspend; set it to false to go on from the last checkpoint",
        )

    def _still_there(self, stage: Stage) -> str | None:
        """Return a pod or Job that must be gone before a stage may start.

        A pod may outlive its Job (a careless delete orphans it), so pods are counted by the job's
        label, whoever owns them: two trainers must never write one volume or hold two GPUs.
        """
        for pod in self.seen.pods:
            if names.label(pod, names.STAGE) == stage and pod.get("status", {}).get(
                "phase"
            ) not in ("Succeeded", "Failed"):
                return f"pod {pod['metadata']['name']}"
        for name, job in self.jobs.items():
            if names.label(job, names.STAGE) == stage and not outcome.is_over(job):
                return f"Job {name}"
        return None

    def _next_number(self, stage: Stage, attempt: Attempt | None) -> int:
        """Return the number of the next attempt.

        One that is still "Starting" was written down but never seen: its number is used again.
        """
        if attempt is not None and attempt.outcome == "Starting":
            return attempt.attempt
        seen = [
            int(names.label(job, names.ATTEMPT) or 0)
            for job in self.jobs.values()
            if names.label(job, names.REVISION) == self.chosen.revision
            and names.label(job, names.STAGE) == stage
        ]
        known = [
            known.attempt
            for known in self.ledger.revision(self.chosen.revision).stages
            if known.stage == stage
        ]
        return max([*seen, *known], default=0) + 1

    def _name(self, stage: Stage, attempt: int) -> str:
        return names.job_name(self.job["metadata"]["name"], self.chosen.revision, stage, attempt)

    def _status(
        self, current: list[dict[str, Any]], serving: ServingState | None, generation: int
    ) -> dict[str, Any]:
        warnings = self.warnings or self.status.get("warnings", [])
        if self.chosen.revision != self.status.get("revision"):
            warnings = self.warnings
        status: dict[str, Any] = {
            "observedGeneration": generation,
            "conditions": current,
            "revision": self.chosen.revision,
            "build": self.chosen.build,
            "warnings": list(dict.fromkeys(warnings)),
            "training": training_status(self.seen, self.chosen.revision, self.ledger),
            "revisions": self.ledger.to_status(),
        }
        if serving is not None:
            status["serving"] = {
                "revision": serving.revision,
                "build": serving.build,
                "replicas": serving.replicas,
                "availableReplicas": serving.available_replicas,
                "model": self.job["metadata"]["name"],
            }
            status["endpoint"] = Rollout.endpoint(self.job)
        return status


def _transitions(before: list[Mapping[str, Any]], after: list[dict[str, Any]]) -> tuple[Event, ...]:
    """Return an event for each stage that has completed and each change of Ready's reason."""
    known = {condition["type"]: condition for condition in before}
    events = []
    for condition in after:
        type_, old = condition["type"], known.get(condition["type"], {})
        if type_ in CONDITION_OF.values() and condition["status"] == "True" != old.get("status"):
            events.append(Event(type="Normal", reason=type_, message=condition["message"]))
        if type_ == "Ready" and condition["reason"] != old.get("reason"):
            failed = any(found["type"] == "Stalled" for found in after)
            events.append(
                Event(
                    type="Warning" if failed else "Normal",
                    reason=condition["reason"],
                    message=condition["message"],
                )
            )
    return tuple(events)
