"""The serving side of a job: which build answers requests, and how the next one takes over.

Each build has its own Deployment. The Service selects one build, and moves on to another only when
that one is available; a Deployment that is neither selected nor wanted is deleted.
"""

from datetime import datetime

from finetune_operator import diagnosis, evaluation
from finetune_operator.children import names, serving
from finetune_operator.conditions import (
    POLL_SECONDS,
    Position,
    ServingState,
    blocked,
    suspended,
)
from finetune_operator.ledger import Ledger
from finetune_operator.revisions import Chosen
from finetune_operator.state import Action, Apply, Delete, Object, Observed

DEADLINE = "ProgressDeadlineExceeded"


class Rollout:
    """One look at what serves. ``actions`` fill by ``position`` and ``tidy``."""

    def __init__(self, seen: Observed, chosen: Chosen, ledger: Ledger, now: datetime) -> None:
        self.seen, self.chosen, self.ledger, self.now = seen, chosen, ledger, now
        self.enabled = chosen.resolved.spec.serving.enabled
        self.actions: list[Action] = []
        self.deployments = {
            build: deployment
            for deployment in seen.deployments
            if names.owned_by(seen.job, deployment)
            and (build := names.label(deployment, names.BUILD))
        }
        self.service = next(
            (
                service
                for service in seen.services
                if names.owned_by(seen.job, service)
                and service["metadata"]["name"] == names.service_name(seen.job["metadata"]["name"])
            ),
            None,
        )
        self.served = self._served()

    def position(self) -> Position:
        """Return where a job stands whose model is made, and plan what is left to do."""
        if not self.enabled:
            return Position(state="done", reason="Completed", message="the model is ready")
        build = self.chosen.build
        deployment = self.deployments.get(build)
        if (
            self.chosen.resolved.spec.suspend
            and deployment is None
            # What serves goes on serving, even where its Deployment has to be made again.
            and self.served != build
        ):
            return suspended()
        if self.served != build and (refused := self._refused()):
            return refused
        self.actions.append(
            Apply(object=serving.deployment(self.seen.job, self.chosen, self._dtype()))
        )
        available = deployment is not None and _is_available(deployment)
        if available or (self.service is None and self.served in (None, build)):
            self._select(build)
        if available and self.service is not None and self.served == build:
            return Position(
                state="done",
                reason="Serving",
                message=f"serving at {serving.endpoint(self.seen.job)}",
            )
        return self._starting(deployment)

    def tidy(self) -> None:
        """Plan what does not wait for the model.

        What nobody asks for goes, since it may hold the GPU that the next training needs; a
        Service that was lost comes back.
        """
        if not self.enabled:
            gone: list[Object] = list(self.deployments.values())
            if self.service is not None:
                gone.append(self.service)
        else:
            kept = (self.served, self.chosen.build)
            gone = [each for build, each in self.deployments.items() if build not in kept]
            applied = any(action.object["kind"] == "Service" for action in self.actions)
            if self.service is None and self.served is not None and not applied:
                self._select(self.served)
        self.actions += [
            Delete(object=child) for child in gone if "deletionTimestamp" not in child["metadata"]
        ]

    def state(self) -> ServingState | None:
        """Return what answers requests now, or None where nothing is meant to."""
        if not self.enabled:
            if self.service is None and not self.deployments:
                return None
            return ServingState(available=False, reason="Disabled", message="being switched off")
        build = self.served
        if build is None:
            return ServingState(
                available=False, reason="Pending", message="nothing has been served yet"
            )
        deployment = self.deployments.get(build)
        status = deployment.get("status", {}) if deployment else {}
        available = (
            self.service is not None and deployment is not None and _is_available(deployment)
        )
        return ServingState(
            available=available,
            reason="Available" if available else "NotAvailable",
            message=f"build {build} answers at {serving.endpoint(self.seen.job)}"
            if available
            else f"build {build} does not answer yet",
            revision=names.label(deployment, names.REVISION) if deployment else None,
            build=build,
            replicas=int(status.get("replicas", 0)),
            available_replicas=int(status.get("availableReplicas", 0)),
        )

    def _select(self, build: str) -> None:
        self.actions.append(Apply(object=serving.service(self.seen.job, self.chosen, build)))

    def _served(self) -> str | None:
        """Return the build that the Service selects, or did before it was lost."""
        if self.service is not None:
            build = self.service["spec"].get("selector", {}).get(names.BUILD)
        else:
            build = self.seen.job.get("status", {}).get("serving", {}).get("build")
            build = build if build in self.deployments else None
        return None if build is None else str(build)

    def gate(self) -> evaluation.Gate:
        """Return what the evaluation says about the chosen build."""
        record = self.ledger.revision(self.chosen.revision)
        return evaluation.judge(record.artifacts.evaluation, self.chosen.resolved.spec.merge.base)

    def _refused(self) -> Position | None:
        """Return where a job stands whose build must not be served, or None."""
        gate = self.gate()
        stalls = self.chosen.resolved.spec.evaluation.on_regression == "Stall"
        if gate.outcome != "Failed" or not stalls:
            return None
        return Position(state="stalled", reason=evaluation.REASON, message=gate.message)

    def _dtype(self) -> str:
        """Return the number format of the chosen build's weights, "auto" where it is not known.

        The ledger keeps that of the revision's latest merge only.
        """
        wanted = self.chosen.resolved.spec.merge.dtype
        record = self.ledger.revision(self.chosen.revision)
        merges = sum(attempt.stage == "merge" for attempt in record.stages)
        return wanted if wanted != "auto" or merges > 1 else record.artifacts.merged_dtype or "auto"

    def _starting(self, deployment: Object | None) -> Position:
        if deployment is not None and _deadline_passed(deployment):
            return Position(
                state="stalled",
                reason=DEADLINE,
                message="the serving pod did not become ready in time: see kubectl logs "
                f"deployment/{deployment['metadata']['name']}",
                requeue_after=POLL_SECONDS,
            )
        for pod in self.seen.pods:
            if (
                names.label(pod, names.BUILD) == self.chosen.build
                and names.label(pod, names.STAGE) == "serve"
                and pod.get("status", {}).get("phase") in ("Pending", "Running")
                and (blocker := diagnosis.of_pod(pod, self.seen.events))
            ):
                since = datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
                return blocked(
                    blocker,
                    seconds=(self.now - since).total_seconds(),
                    deadline=self.chosen.resolved.spec.run_policy.pending_deadline_seconds,
                )
        return Position(
            state="active",
            reason="Starting",
            message="the endpoint is loading the merged model",
            requeue_after=POLL_SECONDS,
        )


def _is_available(deployment: Object) -> bool:
    """Tell whether a Deployment's newest pods answer.

    Its condition Available is no help: with one replica that may be unavailable it is always True.
    """
    status = deployment.get("status", {})
    return (
        "deletionTimestamp" not in deployment["metadata"]
        and int(status.get("observedGeneration", 0)) >= int(deployment["metadata"]["generation"])
        and int(status.get("updatedReplicas", 0)) >= 1
        and int(status.get("availableReplicas", 0)) >= 1
    )


def _deadline_passed(deployment: Object) -> bool:
    status = deployment.get("status", {})
    if int(status.get("observedGeneration", 0)) < int(deployment["metadata"]["generation"]):
        return False
    return any(
        condition["type"] == "Progressing" and condition.get("reason") == DEADLINE
        for condition in status.get("conditions", ())
    )
