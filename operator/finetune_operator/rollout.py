"""The serving side of a job: which build answers requests, and how the next one takes over.

Each build has its own Deployment. The Service selects one build, and moves on to another only when
pods of that one are ready, which they are when their model was verified. A build that fails before
it was ever ready is scaled to 0, and the one that serves goes on; ``giving_way`` says when that one
lends its GPU. A Deployment that is neither selected nor wanted is deleted.
"""

from dataclasses import replace
from datetime import datetime

from finetune_api.reference import BaseKind
from finetune_api.status import Attempt, ServingComparison
from finetune_operator import builds, endpoint, evaluation, giving_way
from finetune_operator.children import names, serving, vllm
from finetune_operator.conditions import POLL_SECONDS, Position, ServingState, suspended
from finetune_operator.ledger import Ledger
from finetune_operator.revisions import Chosen, earlier
from finetune_operator.state import Action, Apply, Delete, Object, Observed, Scale


class Rollout:
    """One look at what serves.

    ``position`` and ``tidy`` fill ``actions`` and ``warnings``, and write into the ledger whether
    the chosen build came into service.
    """

    def __init__(self, seen: Observed, chosen: Chosen, ledger: Ledger, now: datetime) -> None:
        self.seen, self.chosen, self.ledger, self.now = seen, chosen, ledger, now
        self.job, self.spec = seen.job, chosen.resolved.spec
        self.enabled = self.spec.serving.enabled
        self.actions: list[Action] = []
        self.warnings: list[str] = []
        self.deployments = {
            build: deployment
            for deployment in seen.deployments
            if names.owned_by(seen.job, deployment)
            and (build := names.label(deployment, names.BUILD))
        }
        name = names.service_name(seen.job["metadata"]["name"])
        self.service = self._own(seen.services, name)
        self.budget = self._own(seen.budgets, name)
        self.served = self._served()
        self.gives_way = False

    def position(self) -> Position:
        """Return where a job stands whose model is made, and plan what is left to do."""
        if not self.enabled:
            return Position(state="done", reason="Completed", message="the model is ready")
        build = self.chosen.build
        deployment = self.deployments.get(build)
        if withheld := self._withheld():
            if deployment is not None and "deletionTimestamp" not in deployment["metadata"]:
                self._apply(replicas=0, attempt=self._attempt().attempt)
            return withheld
        attempt = self._judged(deployment)
        failed = attempt.outcome == "Failed"
        self._apply(replicas=0 if failed else self._replicas(), attempt=attempt.attempt)
        if self._may_select(deployment):
            self._select(build)
        if failed:
            return endpoint.refused(attempt, self.chosen.build, self.served)
        if self._replicas() == 0:
            return Position(
                state="done",
                reason=endpoint.SCALED_TO_ZERO,
                message="serving is stopped by serving.replicas: 0",
            )
        ready = builds.answering(deployment)
        if ready and self.service is not None and self.served == build:
            text = f"serving at {serving.endpoint(self.job)}"
            if ready < self._replicas():
                text += f" with {ready} of {self._replicas()} replicas"
            return Position(state="done", reason="Serving", message=text)
        if attempt.outcome == "Completed" and ready:
            return Position(
                state="active",
                reason="Starting",
                message=f"the endpoint is handed over to build {build}",
                requeue_after=POLL_SECONDS,
            )
        return endpoint.starting(
            self.seen,
            self.chosen,
            deployment,
            restarting=self.served == build and not ready and attempt.outcome == "Completed",
            now=self.now,
        )

    def tidy(self, position: Position) -> None:
        """Plan what does not wait for the model.

        position: where the job stands. What nobody asks for goes, since it may hold the GPU that
        the next training needs; a Service that was lost comes back; what serves has the replicas
        that are asked for, unless it gives way.
        """
        gone: list[Object] = []
        if self.enabled:
            kept = (self.served, self.chosen.build)
            gone += [each for build, each in self.deployments.items() if build not in kept]
            applied = any(action.object["kind"] == "Service" for action in self.actions)
            if self.service is None and self.served is not None and not applied:
                self._select(self.served)
            self._keep_old(position)
        else:
            gone += [*self.deployments.values(), *([self.service] if self.service else ())]
        if self.enabled and self.served is not None and self.spec.serving.replicas > 1:
            self.actions.append(Apply(object=serving.budget(self.job, self.chosen, self.served)))
        elif self.budget is not None:
            gone.append(self.budget)
        self.actions += [
            Delete(object=child) for child in gone if "deletionTimestamp" not in child["metadata"]
        ]

    def state(self) -> ServingState | None:
        """Return what answers requests now, or None where nothing is meant to."""
        if not self.enabled:
            if self.service is None and not self.deployments:
                return None
            return ServingState(available=False, reason="Disabled", message="being switched off")
        if self.served is None:
            return ServingState(
                available=False, reason="Pending", message="nothing has been served yet"
            )
        return endpoint.state(
            self.job,
            self.served,
            self.deployments.get(self.served),
            reachable=self.service is not None,
            stopped=self._replicas() == 0,
            gives_way=self.gives_way,
        )

    def _own(self, found: tuple[Object, ...], name: str) -> Object | None:
        return next(
            (
                each
                for each in found
                if each["metadata"]["name"] == name and names.owned_by(self.job, each)
            ),
            None,
        )

    def _apply(self, *, replicas: int, attempt: int) -> None:
        deployment = serving.deployment(
            self.job, self.chosen, self._model(), replicas=replicas, attempt=attempt
        )
        self.actions.append(Apply(object=deployment))

    def _select(self, build: str) -> None:
        self.actions.append(Apply(object=serving.service(self.job, self.chosen, build)))

    def _served(self) -> str | None:
        """Return the build that the Service selects, or did before it was lost."""
        if self.service is not None:
            build = self.service["spec"].get("selector", {}).get(names.BUILD)
        else:
            build = self.job.get("status", {}).get("serving", {}).get("build")
            build = build if build in self.deployments else None
        return None if build is None else str(build)

    def gate(self) -> evaluation.Gate:
        """Return what the evaluation says about the chosen build; an adapter runs on the base."""
        record = self.ledger.revision(self.chosen.revision)
        gate = evaluation.judge(record.artifacts.evaluation, self._base())
        return replace(gate, against_serving=self._against_serving())

    def _base(self) -> BaseKind:
        return "original" if self.spec.serving.mode == "adapter" else self.spec.merge.base

    def _against_serving(self) -> ServingComparison | None:
        """Compare the chosen build with what serves; once it does itself, as it was before."""
        if self.served is None:
            return None
        chosen, status = self.chosen, self.job.get("status", {})
        if self.served == chosen.build:
            known = status.get("evaluation", {}).get("againstServing")
            same = known is not None and status.get("build") == chosen.build
            return ServingComparison.model_validate(known) if same else None
        revision = self.ledger.revision_of(self.served)
        attempt = revision and self.ledger.attempt(revision, "serve", self.served)
        return evaluation.compare(
            evaluation.Build(
                build=chosen.build,
                artifacts=self.ledger.revision(chosen.revision).artifacts,
                base=self._base(),
            ),
            evaluation.Build(
                build=self.served,
                artifacts=self.ledger.revision(revision or "").artifacts,
                base=attempt.base if attempt else None,
            ),
        )

    def _withheld(self) -> Position | None:
        """Return where a job stands whose chosen build must not be served now, or None.

        What serves goes on serving, even where its Deployment has to be made again.
        """
        if self.served == self.chosen.build:
            return None
        if self.spec.suspend:
            return suspended()
        gate = self.gate()
        if gate.outcome == "Failed" and self.spec.evaluation.on_regression == "Stall":
            return Position(state="stalled", reason=evaluation.REASON, message=gate.message)
        return None

    def _attempt(self) -> Attempt:
        """Return the attempt at serving the chosen build, a new one where an edit asks for it.

        A build that has been in service before and was taken down since has to show itself again.
        """
        key, build = self.chosen.resolved.serve_key, self.chosen.build
        known = self.ledger.attempt(self.chosen.revision, "serve", build)
        if known is not None:
            stays = build == self.served or build in self.deployments
            if stays if known.outcome == "Completed" else known.retry_key == key:
                return known
        number = known.attempt + 1 if known else 1
        return Attempt(
            stage="serve",
            build=build,
            attempt=number,
            outcome="Starting",
            retry_key=key,
            base=self._base(),
        )

    def _judged(self, deployment: Object | None) -> Attempt:
        """Return the attempt at serving the chosen build, with what its pods say of it."""
        attempt = self._attempt()
        if deployment is not None and attempt.outcome == "Starting":
            pods = builds.pods_of(self.seen.pods, self.chosen.build, attempt.attempt)
            if names.label(deployment, names.ATTEMPT) == str(attempt.attempt):
                if builds.answering(deployment) and (
                    self.served == self.chosen.build or self._may_select(deployment)
                ):
                    attempt = attempt.model_copy(update={"outcome": "Completed"})
                elif found := builds.failure(deployment, pods, self.now):
                    end = {"outcome": "Failed", "reason": found.reason, "message": found.message}
                    attempt = attempt.model_copy(update=end)
        self.ledger.record(self.chosen.revision, attempt)
        return attempt

    def _may_select(self, deployment: Object | None) -> bool:
        """Tell whether the Service may select the chosen build, or goes on doing so.

        It moves when every replica that can have a GPU is ready: fewer would take the requests of
        all that the other build has.
        """
        if self.service is None and self.served in (None, self.chosen.build):
            return True
        ready = builds.answering(deployment)
        pods = builds.pods_of(self.seen.pods, self.chosen.build)
        waiting = sum(builds.gpu_wanted_since(pod) is not None for pod in pods)
        return ready > 0 and self._replicas() <= ready + waiting

    def _replicas(self, build: str | None = None) -> int:
        """Return how many pods a build is to have: one at most on a volume that only one node uses.

        build: the chosen one by default.
        """
        wanted = self.spec.serving.replicas
        revision: str | None = self.chosen.revision
        if build is not None:
            revision = names.label(self.deployments[build], names.REVISION)
        claim = names.revision_name(self.job["metadata"]["name"], str(revision))
        volume = self._own(self.seen.volumes, claim)
        if wanted > 1 and volume and "ReadWriteMany" not in volume["spec"]["accessModes"]:
            self.warnings.append(
                f"volume {claim} was made for one node (ReadWriteOnce): one replica serves from "
                "it, and more only from the volume of a later revision"
            )
            return 1
        return wanted

    def _keep_old(self, position: Position) -> None:
        """Give a build that serves beside the chosen one the replicas that it is to have."""
        if self.served is None or self.served == self.chosen.build:
            return
        old = self.deployments.get(self.served)
        if old is None:
            self._remake(self.served)
        if old is None or "deletionTimestamp" in old["metadata"]:
            return
        wanted = self._replicas(self.served)
        self.gives_way = wanted > 0 and giving_way.due(
            self.seen, self.chosen, self.ledger, position=position, old=old, now=self.now
        )
        wanted = 0 if self.gives_way else wanted
        if old["spec"].get("replicas") != wanted:
            self.actions.append(Scale(object=old, replicas=wanted))

    def _remake(self, build: str) -> None:
        """Make a lost Deployment again, whose build serves while the next one comes."""
        revision = self.ledger.revision_of(build)
        if revision is None:
            return
        old = earlier(self.job, self.seen.configmaps, self.chosen, revision, build)
        served = self.ledger.attempt(revision, "serve", build)
        if old is not None:
            deployment = serving.deployment(
                self.job,
                old,
                self._model_of(revision, build),
                replicas=min(1, self.spec.serving.replicas),
                attempt=served.attempt if served is not None else 1,
            )
            self.actions.append(Apply(object=deployment))

    def _model(self) -> vllm.Model:
        """Return what is known of the chosen build's model."""
        return self._model_of(self.chosen.revision, self.chosen.build)

    def _model_of(self, revision: str, build: str) -> vllm.Model:
        artifacts = self.ledger.revision(revision).artifacts
        merged = self.ledger.attempt(revision, "merge", build)
        known = merged.merged_dtype if merged is not None else None
        return vllm.Model(
            dtype=known or self.spec.merge.dtype,
            base_bytes=artifacts.base_bytes,
            own_template=artifacts.chat_template is not None,
        )
