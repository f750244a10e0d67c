"""Timeline of one run, from recorded watch events and the trainer's log.

Timestamps of objects have whole seconds only, so events are timed on arrival. All events arrive
over one connection to the same API server, so differences are accurate to a few milliseconds.
Training steps are timed by the timestamps that the container runtime adds to log lines.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.tuning import STAGE, Tuning, condition, label

STAGES = ("prepare", "train", "merge")
VERIFIED = re.compile(r" \w+ in (\S+) s, of which vLLM took (\S+) s to answer: ")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Times of one stage, in seconds of the system clock."""

    due: float
    """The operator can start it from this time."""
    created: float
    """Its Job or Deployment exists."""
    running: float
    """Its container runs."""
    ended: float
    """Its container has ended; for serving: the pod is ready."""
    reported: float
    """The status of its Job or Deployment reports it."""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """Durations of the verification, in seconds."""

    own: float
    """Time of the verifier itself, after vLLM became healthy."""
    answering: float
    """Time that vLLM took to answer."""
    noticed: float
    """From the end of the verification to the pod's readiness."""


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Times of one run, in seconds of the system clock."""

    applied: float
    stages: dict[str, Stage]
    first_step: float
    last_step: float
    ready: float
    verified: Verified

    def operator_waits(self) -> dict[str, float]:
        """Return the operator's reaction times in seconds, by action."""
        waits = {f"start {name}": stage.created - stage.due for name, stage in self.stages.items()}
        return waits | {"report Ready": self.ready - self.stages["serve"].reported}

    def own_after_training(self) -> dict[str, float]:
        """Return seconds of operator and verifier between the last step and Ready."""
        waits = self.operator_waits()
        return {
            "the operator starts the merge": waits["start merge"],
            "the operator starts serving": waits["start serve"],
            "the verifier compares (without the time that vLLM needs to answer)": self.verified.own,
            "the kubelet observes readiness": self.verified.noticed,
            "the operator reports Ready": waits["report Ready"],
        }

    def others_after_training(self) -> dict[str, float]:
        """Return seconds of everything else between the last step and Ready."""
        train, merge, serve = (self.stages[name] for name in ("train", "merge", "serve"))
        loaded = serve.ended - self.verified.noticed - self.verified.own - self.verified.answering
        return {
            "the trainer saves the adapter and computes the reference": train.ended
            - self.last_step,
            "Kubernetes starts pods and reports results": (train.reported - train.ended)
            + (merge.running - merge.created)
            + (merge.reported - merge.ended)
            + (serve.running - serve.created)
            + (serve.reported - serve.ended),
            "the `merge` stage runs": merge.ended - merge.running,
            "vLLM loads the model": loaded - serve.running,
            "vLLM scores the reference": self.verified.answering,
        }


def read(tuning: Tuning, *, applied: float) -> Timeline:
    """Return the timeline of a Ready job whose stages had one attempt each."""
    due = _first(tuning, "FineTuneJob", "", lambda job: True)
    stages = {}
    for name in STAGES:
        stages[name] = Stage(
            due=due,
            created=_first(tuning, "Job", name, lambda job: True),
            running=_first(tuning, "Pod", name, lambda pod: _phase(pod) == "Running"),
            ended=_first(tuning, "Pod", name, lambda pod: _phase(pod) == "Succeeded"),
            reported=_first(tuning, "Job", name, lambda job: _is(job, "Complete")),
        )
        due = stages[name].reported
    stages["serve"] = Stage(
        due=due,
        created=_first(tuning, "Deployment", "serve", lambda deployment: True),
        running=_first(tuning, "Pod", "serve", lambda pod: _phase(pod) == "Running"),
        ended=_first(tuning, "Pod", "serve", lambda pod: _is(pod, "Ready")),
        reported=_first(tuning, "Deployment", "serve", _available),
    )
    first_step, last_step = _steps(tuning)
    pod_ready = stages["serve"].ended
    return Timeline(
        applied=applied,
        stages=stages,
        first_step=first_step,
        last_step=last_step,
        ready=_first(tuning, "FineTuneJob", "", lambda job: _is(job, "Ready")),
        verified=_verified(tuning, pod_ready),
    )


def _first(tuning: Tuning, kind: str, stage: str, where: Callable[[Object], bool]) -> float:
    """Return when an object of a stage (empty: of none) first matched ``where``."""
    for event in tuning.cluster.record.events(kind, tuning.namespace):
        if (label(event.object, STAGE) or "") == stage and where(event.object):
            return event.at
    raise LookupError(f"no {kind} of stage {stage!r} reached the expected state")


def _phase(pod: Object) -> str:
    return str(pod["status"].get("phase"))


def _is(manifest: Object, type_: str) -> bool:
    state = condition(manifest.get("status", {}), type_)
    return state is not None and state["status"] == "True"


def _available(deployment: Object) -> bool:
    return int(deployment.get("status", {}).get("availableReplicas", 0)) >= 1


def _steps(tuning: Tuning) -> tuple[float, float]:
    """Return when the first and the last training step were logged."""
    (pod,) = tuning.pods("train")
    log = tuning.cluster.kubectl.logs(pod["metadata"]["name"], tuning.namespace, "--timestamps")
    lines = [line for line in log.splitlines() if re.search(r" step \d+/\d+ loss ", line)]
    return _moment(lines[0]), _moment(lines[-1])


def _verified(tuning: Tuning, pod_ready: float) -> Verified:
    """Return the durations that the verifier logged."""
    (pod,) = tuning.pods("serve")
    options = ("--container=verify", "--timestamps")
    log = tuning.cluster.kubectl.logs(pod["metadata"]["name"], tuning.namespace, *options)
    line, match = next(
        (line, match) for line in log.splitlines() if (match := VERIFIED.search(line))
    )
    seconds, answering = float(match[1]), float(match[2])
    return Verified(own=seconds - answering, answering=answering, noticed=pod_ready - _moment(line))


def _moment(line: str) -> float:
    # Python parses at most six fractional digits.
    stamp = re.sub(r"(\.\d{6})\d*Z$", r"\1+00:00", line.split(" ", 1)[0])
    return datetime.fromisoformat(stamp).timestamp()
