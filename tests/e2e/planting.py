"""Inject faults between a merge and its endpoint, one after another, and report the outcome.

A faulty folder replaces the merged model of a build before a pod serves the build. The operator
finds the build already merged and starts its pods, so the pods really serve a wrong model. Each
fault uses a separate attempt to serve the same build. The ledger is changed to vouch for the faulty
folder, as if the merge had made the fault: otherwise, its digest alone would reveal each of them.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.local_cluster import pods
from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.pods import Task
from tests.support.local_cluster.recorder import Event
from tests.support.local_cluster.target import is_ready
from tests.support.local_cluster.tuning import ATTEMPT, STAGE, Tuning, condition, label

BUILD = "finetune.dev/build"
SCORES, TOKENS, DIGESTS = "not the tuned model", "differently than training did", "has SHA-256"
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
"""Each fault, with the part of the verification message that must detect it."""

MERGE_SECONDS, SERVE_SECONDS = 900.0, 900.0


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A build that is rolled out, and the folder with its faulty copies."""

    tuning: Tuning
    build: str
    keeper: str
    """A pod with write access to the volume."""

    def attempt(self) -> int:
        """Return the number of the newest serving attempt of the build, or 0 if there is none."""
        return max((each["attempt"] for each in self._attempts()), default=0)

    def serve(self, planted: str) -> Object:
        """Serve one of the faulty folders; return the record of the serving attempt."""
        tuning = self.tuning
        manifest = pods.inside(
            tuning.cluster, tuning.namespace, self.keeper, "serve_from.py", self.build, planted
        )
        self._vouch(manifest)
        return self.serve_again()

    def serve_again(self) -> Object:
        """Serve the folder that is on the volume; return the record of the serving attempt."""
        tuning, number = self.tuning, self.attempt() + 1
        # This edit of spec.serving changes no value that matters; it retries the failed build.
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
        """Return all events of the pods of a serving attempt."""
        return self.tuning.cluster.record.events(
            "Pod",
            self.tuning.namespace,
            lambda pod: (
                (label(pod, STAGE), label(pod, BUILD), label(pod, ATTEMPT))
                == ("serve", self.build, str(attempt))
            ),
        )

    def was_ready(self, attempt: int) -> bool:
        """Report whether a pod of an attempt was ever ready."""
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

    def _vouch(self, manifest: str) -> None:
        """Record a manifest as the one that the merge published, if the build was merged before."""
        path = "/status/revisions/{}/stages/{}"
        merged = [
            path.format(row, column)
            for row, revision in enumerate(self.tuning.status().get("revisions", ()))
            for column, each in enumerate(revision.get("stages", ()))
            if each["stage"] == "merge" and each.get("build") == self.build
        ]
        for place in merged:
            change = [
                {"op": "test", "path": f"{place}/build", "value": self.build},
                {"op": "replace", "path": f"{place}/mergedManifest", "value": manifest},
            ]
            self.tuning.cluster.kubectl.run(
                *("patch", "ftj", self.tuning.name, f"--namespace={self.tuning.namespace}"),
                *("--subresource=status", "--type=json", f"--patch={json.dumps(change)}"),
            )

    def _attempts(self) -> list[Any]:
        return [
            each
            for revision in self.tuning.status().get("revisions", ())
            for each in revision.get("stages", ())
            if each["stage"] == "serve" and each.get("build") == self.build
        ]


@contextmanager
def candidate(
    tuning: Tuning, *, previous: str = "", faults: Collection[str] = tuple(FOUND_BY), **merge: str
) -> Iterator[Candidate]:
    """Create a new build of a serving job, pause it, merge it, and create its faulty copies.

    previous: build of the previous revision, whose volume still exists; only the fault of this name
    needs it. merge: fields of ``spec.merge`` that create the new build.
    """
    cluster, status = tuning.cluster, tuning.status()
    revision, serves = status["revision"], status["build"]
    tuning.change(suspend=True, merge=merge)
    build = tuning.wait(
        "the status contains the new build",
        lambda now: now["build"] != serves and now["build"],
        seconds=240,
    )
    claim = f"{tuning.name}-{revision}"
    writable = {"/work": claim}
    if previous:
        others = (each["revision"] for each in status["revisions"])
        before = next(each for each in others if each != revision)
        writable["/before"] = f"{tuning.name}-{before}"
    settings = cluster.kubectl.get("configmap", claim, tuning.namespace)["data"]["job.json"]
    spoil = Task(
        script="plant.py",
        image=cluster.trainer_image(),
        given={
            "job": settings,
            "build": build,
            "before": f"merged-{previous}",
            "faults": sorted(faults),
            **merge,
        },
        writable=writable,
        memory="1Gi",
    )
    planted = pods.run(cluster, tuning.namespace, spoil, seconds=MERGE_SECONDS)["faults"]
    assert planted == sorted(faults)
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
            seconds=240,
        )
        yield Candidate(tuning=tuning, build=build, keeper=name)


def refused(tuning: Tuning) -> str:
    """Return the message of Ready if a build was rejected, otherwise an empty text."""
    ready = condition(tuning.status(), "Ready") or {}
    return str(ready["message"]) if ready.get("reason") == "RolloutFailed" else ""
