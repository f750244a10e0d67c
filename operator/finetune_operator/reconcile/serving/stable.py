"""What serves is kept, whatever becomes of the next model, and what nobody asks for goes.

A Service or Deployment that was lost comes back; the build that serves beside the chosen one has
the replicas that are asked for, unless it lends its GPU (``giving_way``). One that is selected but
was never ready has none once it has failed, nor while the job is paused. A Deployment that is
neither selected nor wanted is deleted.
"""

from collections.abc import Iterable
from datetime import datetime

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.manifests import serving
from finetune_operator.reconcile.conditions import Position, ServingState
from finetune_operator.reconcile.serving import endpoint, gpu_handover
from finetune_operator.reconcile.serving.state import Served
from finetune_operator.revisions.target import earlier
from finetune_operator.types import Action, Apply, Delete, Object, Scale


class Upkeep:
    """One look at what serves. ``tidy`` fills ``actions``."""

    def __init__(self, there: Served, now: datetime) -> None:
        self.there, self.now = there, now
        self.enabled = there.spec.serving.enabled
        self.actions: list[Action] = []
        self.gives_way = False

    def tidy(self, position: Position, planned: Iterable[Action]) -> None:
        """Plan what does not wait for the model.

        position: where the job stands; planned: what is done about the chosen build. What nobody
        asks for goes, since it may hold the GPU that the next training needs.
        """
        there = self.there
        gone: list[Object] = []
        if self.enabled:
            kept = (there.build, there.target.build)
            gone += [each for build, each in there.deployments.items() if build not in kept]
            applied = any(action.object["kind"] == "Service" for action in planned)
            if there.build is not None and not applied and there.misdirected(there.build):
                self.actions.append(there.selection(there.build))
            self._keep_old(position)
        else:
            gone += [*there.deployments.values(), *([there.service] if there.service else ())]
        if self.enabled and there.build is not None and there.spec.serving.replicas > 1:
            budget = serving.budget(there.job, there.target, there.build)
            self.actions.append(Apply(object=budget))
        elif there.budget is not None:
            gone.append(there.budget)
        self.actions += [
            Delete(object=child) for child in gone if "deletionTimestamp" not in child["metadata"]
        ]

    def state(self) -> ServingState | None:
        """Return what answers requests now, or None where nothing is meant to."""
        there = self.there
        if not self.enabled:
            if there.service is None and not there.deployments:
                return None
            return ServingState(
                available=False, reason=Reason.DISABLED, message="being switched off"
            )
        if there.build is None:
            return ServingState(
                available=False, reason=Reason.PENDING, message="nothing has been served yet"
            )
        return endpoint.state(
            there.job,
            there.build,
            there.deployments.get(there.build),
            reachable=there.service is not None,
            stopped=there.replicas() == 0,
            gives_way=self.gives_way,
        )

    def _keep_old(self, position: Position) -> None:
        """Give a build that serves beside the chosen one the replicas that it is to have."""
        there = self.there
        if there.build is None or there.build == there.target.build:
            return
        old, stopped = there.deployments.get(there.build), self._stopped(there.build)
        if old is None and not stopped:
            self._remake(there.build)
        if old is None or "deletionTimestamp" in old["metadata"]:
            return
        wanted = 0 if stopped else there.replicas(there.build)
        self.gives_way = wanted > 0 and gpu_handover.due(
            there.snapshot, there.target, there.ledger, position=position, old=old, now=self.now
        )
        wanted = 0 if self.gives_way else wanted
        if old["spec"].get("replicas") != wanted:
            self.actions.append(Scale(object=old, replicas=wanted))

    def _stopped(self, build: str) -> bool:
        """Tell whether the build beside the chosen one is to have no pods.

        It may have been the first, and passed over before its pods were ready: they are judged.
        """
        there = self.there
        revision, attempt = there.ledger.revision_of(build), there.attempt(build)
        if revision is None or attempt is None:
            return False
        attempt = there.judged(attempt, build, selectable=True, now=self.now)
        there.ledger.record(revision, attempt)
        paused = there.spec.suspend and attempt.outcome == "Starting"
        return paused or attempt.outcome == "Failed"

    def _remake(self, build: str) -> None:
        """Make a lost Deployment again, whose build serves while the next one comes."""
        there = self.there
        revision = there.ledger.revision_of(build)
        if revision is None:
            return
        old = earlier(there.job, there.snapshot.configmaps, there.target, revision, build)
        served = there.ledger.attempt(revision, "serve", build)
        if old is not None:
            replicas = min(1, there.spec.serving.replicas)
            attempt = served.attempt if served is not None else 1
            self.actions.append(there.deployment(build, replicas=replicas, attempt=attempt, of=old))
