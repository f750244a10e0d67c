"""How the chosen build comes into service, and takes over from the one that serves.

Each build has its own Deployment. The Service selects one build, and moves on to another only when
pods of that one are ready, which they are when their model was verified. A build that fails before
it was ever ready is scaled to 0, and the one that serves goes on (``upkeep``).
"""

from datetime import datetime

from finetune_api.v1alpha1.ledger import Attempt
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.manifests import serving
from finetune_operator.objects import deployments
from finetune_operator.reconcile.conditions import POLL_SECONDS, Position, suspended
from finetune_operator.reconcile.serving import endpoint, evaluation_gate, readiness
from finetune_operator.reconcile.serving.state import Served
from finetune_operator.types import Action, Object


class Rollout:
    """One look at the chosen build.

    ``position`` fills ``actions``, and writes into the ledger whether the build came into service.
    """

    def __init__(self, there: Served, now: datetime) -> None:
        self.there, self.now = there, now
        self.snapshot, self.target, self.ledger = there.snapshot, there.target, there.ledger
        self.job, self.spec = there.job, there.spec
        self.actions: list[Action] = []

    def position(self) -> Position:
        """Return where a job stands whose model is made, and plan what is left to do."""
        if not self.spec.serving.enabled:
            return Position(state="done", reason=Reason.COMPLETED, message="the model is ready")
        there, build = self.there, self.target.build
        deployment = there.deployments.get(build)
        if withheld := self._withheld(deployment):
            if deployment is not None and "deletionTimestamp" not in deployment["metadata"]:
                self._apply(replicas=0, attempt=self._attempt().attempt)
            return withheld
        attempt = self._judged(deployment)
        failed = attempt.outcome == "Failed"
        self._apply(replicas=0 if failed else there.replicas(), attempt=attempt.attempt)
        if self._may_select(deployment):
            self.actions.append(there.selection(build))
        if failed:
            serves = there.build is not None and not there.failed(there.build)
            return endpoint.refused(attempt, build, there.build if serves else None)
        if there.replicas() == 0:
            return Position(
                state="done",
                reason=Reason.SCALED_TO_ZERO,
                message="serving is stopped by serving.replicas: 0",
            )
        ready = deployments.answering(deployment)
        if ready and there.service is not None and there.build == build:
            text = f"serving at {serving.endpoint(self.job)}"
            if ready < there.replicas():
                text += f" with {ready} of {there.replicas()} replicas"
            return Position(state="done", reason=Reason.SERVING, message=text)
        if attempt.outcome == "Completed" and ready:
            return Position(
                state="active",
                reason=Reason.STARTING,
                message=f"the endpoint is handed over to build {build}",
                requeue_after=POLL_SECONDS,
            )
        return endpoint.starting(
            self.snapshot,
            self.target,
            deployment,
            restarting=there.build == build and not ready and attempt.outcome == "Completed",
            now=self.now,
        )

    def _apply(self, *, replicas: int, attempt: int) -> None:
        build = self.target.build
        self.actions.append(self.there.deployment(build, replicas=replicas, attempt=attempt))

    def _withheld(self, deployment: Object | None) -> Position | None:
        """Return where a job stands whose chosen build must not be served now, or None.

        What serves goes on serving, even where its Deployment has to be made again. The first build
        is selected before it was ever ready: until then a pause stops it, as it does any stage.
        """
        if self.there.build == self.target.build:
            loading = self._attempt().outcome == "Starting" and not deployments.answering(
                deployment
            )
            return suspended() if self.spec.suspend and loading and self.there.replicas() else None
        if self.spec.suspend:
            return suspended()
        gate = evaluation_gate.gate(self.job, self.target, self.ledger, self.there.build)
        if gate.outcome == "Failed" and self.spec.evaluation.on_regression == "Stall":
            return Position(state="stalled", reason=Reason.EVAL_GATE_FAILED, message=gate.message)
        return None

    def _attempt(self) -> Attempt:
        """Return the attempt at serving the chosen build, a new one where an edit asks for it.

        A build that has been in service before and was taken down since has to show itself again.
        """
        key, build = self.target.resolved.serve_key, self.target.build
        known = self.ledger.attempt(self.target.revision, "serve", build)
        if known is not None:
            stays = build == self.there.build or build in self.there.deployments
            if stays if known.outcome == "Completed" else known.retry_key == key:
                return known
        number = known.attempt + 1 if known else 1
        return Attempt(
            stage="serve",
            build=build,
            attempt=number,
            outcome="Starting",
            retry_key=key,
            base=evaluation_gate.base_of(self.target),
        )

    def _judged(self, deployment: Object | None) -> Attempt:
        """Return the attempt at serving the chosen build, with what its pods say of it."""
        build = self.target.build
        selectable = self.there.build == build or self._may_select(deployment)
        attempt = self.there.judged(self._attempt(), build, selectable=selectable, now=self.now)
        self.ledger.record(self.target.revision, attempt)
        return attempt

    def _may_select(self, deployment: Object | None) -> bool:
        """Tell whether the Service may select the chosen build, or goes on doing so.

        It moves when every replica that can have a GPU is ready: fewer would take the requests of
        all that the other build has.
        """
        if self.there.service is None and self.there.build in (None, self.target.build):
            return True
        ready = deployments.answering(deployment)
        pods = readiness.pods_of(self.snapshot.pods, self.target.build)
        waiting = sum(readiness.gpu_wanted_since(pod) is not None for pod in pods)
        return ready > 0 and self.there.replicas() <= ready + waiting
