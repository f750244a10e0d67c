"""The serving side of a job: which build answers requests, and how the next one takes over.

Each build has its own Deployment. The Service selects one build, and moves on to another only when
that one is available; the Deployment of the build that it leaves is deleted after that.
"""

from finetune_operator import diagnosis
from finetune_operator.children import names, serving
from finetune_operator.conditions import Position, ServingState
from finetune_operator.ledger import Ledger
from finetune_operator.revisions import Chosen
from finetune_operator.state import Action, Apply, Delete, Object, Observed

POLL_SECONDS = 15.0
DEADLINE = "ProgressDeadlineExceeded"


class Rollout:
    """One look at what serves. ``actions`` fill when ``position`` is asked for."""

    endpoint = staticmethod(serving.endpoint)

    def __init__(self, seen: Observed, chosen: Chosen, ledger: Ledger) -> None:
        self.seen, self.chosen, self.ledger = seen, chosen, ledger
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

    def position(self) -> Position:
        """Return where a job stands whose model is made, and plan what is left to do."""
        if not self.chosen.resolved.spec.serving.enabled:
            self._remove()
            return Position(state="done", reason="Completed", message="the model is ready")
        build = self.chosen.build
        dtype = self.ledger.revision(self.chosen.revision).artifacts.merged_dtype or "auto"
        self.actions.append(Apply(object=serving.deployment(self.seen.job, self.chosen, dtype)))
        deployment = self.deployments.get(build)
        available = deployment is not None and _is_available(deployment)
        selected = self._selected()
        if selected is None or available:
            self.actions.append(Apply(object=serving.service(self.seen.job, self.chosen, build)))
        if available and selected == build:
            self.actions += [
                Delete(object=old) for other, old in self.deployments.items() if other != build
            ]
            return Position(
                state="done", reason="Serving", message=f"serving at {self._endpoint()}"
            )
        return self._starting(deployment)

    def state(self) -> ServingState | None:
        """Return what answers requests now, or None where nothing is meant to."""
        build = self._selected()
        if build is None:
            if not self.chosen.resolved.spec.serving.enabled:
                return None
            return ServingState(
                available=False, reason="Pending", message="nothing has been served yet"
            )
        deployment = self.deployments.get(build)
        status = deployment.get("status", {}) if deployment else {}
        available = deployment is not None and _is_available(deployment)
        if not self.chosen.resolved.spec.serving.enabled:
            return ServingState(available=False, reason="Disabled", message="being switched off")
        return ServingState(
            available=available,
            reason="Available" if available else "NotAvailable",
            message=f"build {build} answers at {self._endpoint()}"
            if available
            else f"build {build} does not answer yet",
            revision=names.label(deployment, names.REVISION) if deployment else None,
            build=build,
            replicas=int(status.get("replicas", 0)),
            available_replicas=int(status.get("availableReplicas", 0)),
        )

    def _endpoint(self) -> str:
        return serving.endpoint(self.seen.job)

    def _selected(self) -> str | None:
        if self.service is None:
            return None
        build = self.service["spec"].get("selector", {}).get(names.BUILD)
        return None if build is None else str(build)

    def _remove(self) -> None:
        gone = list(self.deployments.values())
        if self.service is not None:
            gone.append(self.service)
        self.actions += [
            Delete(object=child) for child in gone if "deletionTimestamp" not in child["metadata"]
        ]

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
                return Position(
                    state="active",
                    reason=blocker.reason,
                    message=blocker.message,
                    requeue_after=POLL_SECONDS,
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
        int(status.get("observedGeneration", 0)) >= int(deployment["metadata"]["generation"])
        and int(status.get("updatedReplicas", 0)) >= 1
        and int(status.get("availableReplicas", 0)) >= 1
    )


def _deadline_passed(deployment: Object) -> bool:
    return any(
        condition["type"] == "Progressing" and condition.get("reason") == DEADLINE
        for condition in deployment.get("status", {}).get("conditions", ())
    )
