"""Plants faults between a merge and its endpoint, one after the other, and tells what came of it.

A faulty folder takes the place of a build's merged model before a pod serves it: the operator finds
the build merged already, starts its pods, and what is served is really wrong. Every fault has its
own attempt at serving the same build.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.e2e import pods
from tests.e2e.kubectl import Object
from tests.e2e.pods import Task
from tests.e2e.recorder import Event
from tests.e2e.target import is_ready
from tests.e2e.tuning import ATTEMPT, STAGE, Tuning, condition, label

BUILD = "finetune.dev/build"
SCORES, TOKENS, DIGESTS = "not the tuned model", "tokenized differently", "has SHA-256"
FOUND_BY = {
    "base": SCORES,
    "previous": SCORES,
    "twice": SCORES,
    "half": SCORES,
    "zeroed": SCORES,
    "tokenizer": TOKENS,
    "template": TOKENS,
    "corrupted": DIGESTS,
}
"""What can be served in a build's place, and the words of the finding."""

MERGE_SECONDS, SERVE_SECONDS = 120.0, 240.0


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A build that is to take over, and where its faulty copies lie."""

    tuning: Tuning
    build: str
    keeper: str
    """Pod that may write the volume."""

    def attempt(self) -> int:
        """Return the number of the newest attempt at serving it, 0 for none."""
        return max((each["attempt"] for each in self._attempts()), default=0)

    def serve(self, planted: str) -> Object:
        """Serve one of the planted folders; return how that attempt ended."""
        tuning, number = self.tuning, self.attempt() + 1
        pods.inside(
            tuning.cluster, tuning.namespace, self.keeper, "serve_from.py", self.build, planted
        )
        # An edit of serving that changes no number, so that a failed build is tried again.
        tuning.change(suspend=False, serving={"extraArgs": [f"--max-log-len={number}"]})

        def ended(_: Object) -> Any:
            for each in self._attempts():
                if each["attempt"] == number and each["outcome"] in ("Completed", "Failed"):
                    return each
            return None

        found: Object = tuning.wait(
            f"attempt {number} at serving has ended", ended, seconds=SERVE_SECONDS, stalls=True
        )
        return found

    def pods(self, attempt: int) -> list[Event]:
        """Return everything that happened to the pods of an attempt at serving."""
        return self.tuning.cluster.record.events(
            "Pod",
            self.tuning.namespace,
            lambda pod: (
                (label(pod, STAGE), label(pod, BUILD), label(pod, ATTEMPT))
                == ("serve", self.build, str(attempt))
            ),
        )

    def was_ready(self, attempt: int) -> bool:
        """Tell whether a pod of an attempt was ever ready."""
        return any(is_ready(event.object) for event in self.pods(attempt))

    def exits(self, attempt: int) -> list[tuple[int, str]]:
        """Return exit codes and termination messages of the verify container."""
        ends = {
            state["terminated"]["containerID"]: state["terminated"]
            for event in self.pods(attempt)
            for container in event.object["status"].get("containerStatuses", ())
            if container["name"] == "verify"
            for state in (container.get("state", {}), container.get("lastState", {}))
            if "terminated" in state
        }
        return [(end["exitCode"], end.get("message", "")) for end in ends.values()]

    def _attempts(self) -> list[Any]:
        return [
            each
            for revision in self.tuning.status().get("revisions", ())
            for each in revision.get("stages", ())
            if each["stage"] == "serve" and each.get("build") == self.build
        ]


@contextmanager
def candidate(tuning: Tuning, *, previous: str, **merge: str) -> Iterator[Candidate]:
    """Make a new build of a job that serves, hold it back, and merge and spoil it.

    previous: build of the revision before, whose volume is still there; merge: the edit that makes
    the new build (``spec.merge``).
    """
    cluster, status = tuning.cluster, tuning.status()
    revision, serves = status["revision"], status["build"]
    tuning.change(suspend=True, merge=merge)
    build = tuning.wait(
        "the new build has a name", lambda now: now["build"] != serves and now["build"], seconds=30
    )
    before = next(each["revision"] for each in status["revisions"] if each["revision"] != revision)
    claim = f"{tuning.name}-{revision}"
    writable = {"/work": claim, "/before": f"{tuning.name}-{before}"}
    settings = cluster.kubectl.get("configmap", claim, tuning.namespace)["data"]["job.json"]
    spoil = Task(
        script="plant.py",
        image=cluster.trainer_image(),
        given={"job": settings, "build": build, "before": f"merged-{previous}", **merge},
        writable=writable,
        memory="1Gi",
    )
    assert sorted(pods.run(cluster, tuning.namespace, spoil, seconds=MERGE_SECONDS)["faults"]) == (
        sorted(FOUND_BY)
    )
    keeper = Task(script="stay.py", image=cluster.operator_image(), writable={"/work": claim})
    with pods.started(cluster, tuning.namespace, keeper) as name:
        cluster.record.wait(
            f"pod {name} runs",
            lambda: (
                (cluster.record.find("Pod", tuning.namespace, name) or {})
                .get("status", {})
                .get("phase")
                == "Running"
            ),
            seconds=60,
        )
        yield Candidate(tuning=tuning, build=build, keeper=name)


def refused(tuning: Tuning) -> str:
    """Return Ready's message where a build was not taken into service, else an empty text."""
    ready = condition(tuning.status(), "Ready") or {}
    return str(ready["message"]) if ready.get("reason") == "RolloutFailed" else ""
