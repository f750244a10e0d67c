"""The serving side of a job: its builds' Deployments, and the Service that selects one of them."""

from datetime import datetime

from finetune_api.v1alpha1.ledger import Attempt
from finetune_operator.manifests import serving, vllm
from finetune_operator.objects import deployments, naming
from finetune_operator.reconcile.serving import readiness
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Apply, Object, Snapshot


class Served:
    """What there is to serve with, and what it is made of.

    ``build`` is the one that the Service selects, or did before it was lost or changed by hand;
    None where nothing has been served yet. ``warnings`` are filled by ``replicas``.
    """

    def __init__(self, snapshot: Snapshot, target: TargetRevision, ledger: Ledger) -> None:
        self.snapshot, self.target, self.ledger = snapshot, target, ledger
        self.job, self.spec = snapshot.job, target.resolved.spec
        self.warnings: list[str] = []
        self.deployments = {
            build: deployment
            for deployment in snapshot.deployments
            if naming.owned_by(snapshot.job, deployment)
            and (build := naming.label(deployment, naming.BUILD))
        }
        name = naming.service_name(snapshot.job["metadata"]["name"])
        self.service = self._own(snapshot.services, name)
        self.budget = self._own(snapshot.budgets, name)
        self.build = self._selected()

    def selection(self, build: str) -> Apply:
        """Return what lets the Service select a build."""
        return Apply(object=serving.service(self.job, self.target, build))

    def deployment(
        self, build: str, *, replicas: int, attempt: int, of: TargetRevision | None = None
    ) -> Apply:
        """Return what makes a build's Deployment. of: its revision, the chosen one by default."""
        target = of or self.target
        model = self._model(target.revision, build)
        return Apply(
            object=serving.deployment(self.job, target, model, replicas=replicas, attempt=attempt)
        )

    def attempt(self, build: str) -> Attempt | None:
        """Return the latest attempt at serving a build, or None."""
        revision = self.ledger.revision_of(build)
        return None if revision is None else self.ledger.attempt(revision, "serve", build)

    def failed(self, build: str) -> bool:
        """Tell whether a build failed before it was ever ready."""
        attempt = self.attempt(build)
        return attempt is not None and attempt.outcome == "Failed"

    def judged(self, attempt: Attempt, build: str, *, selectable: bool, now: datetime) -> Attempt:
        """Return an attempt at serving a build, with what the build's pods say of it.

        selectable: whether the Service selects the build, or may.
        """
        deployment = self.deployments.get(build)
        if (
            deployment is None
            or attempt.outcome != "Starting"
            or naming.label(deployment, naming.ATTEMPT) != str(attempt.attempt)
        ):
            return attempt
        if deployments.answering(deployment) and selectable:
            return attempt.model_copy(update={"outcome": "Completed"})
        pods = readiness.pods_of(self.snapshot.pods, build, attempt.attempt)
        if found := readiness.failure(deployment, pods, now):
            end = {"outcome": "Failed", "reason": found.reason, "message": found.message}
            return attempt.model_copy(update=end)
        return attempt

    def misdirected(self, build: str) -> bool:
        """Tell whether the Service is lost, or selects other pods than a build's."""
        selector = serving.selector(self.job, build)
        return self.service is None or self.service["spec"].get("selector") != selector

    def replicas(self, build: str | None = None) -> int:
        """Return how many pods a build is to have: one at most on a volume that only one node uses.

        build: the chosen one by default.
        """
        wanted = self.spec.serving.replicas
        revision: str | None = self.target.revision
        if build is not None:
            revision = naming.label(self.deployments[build], naming.REVISION)
        claim = naming.revision_name(self.job["metadata"]["name"], str(revision))
        volume = self._own(self.snapshot.volumes, claim)
        if wanted > 1 and volume and "ReadWriteMany" not in volume["spec"]["accessModes"]:
            self.warnings.append(
                f"volume {claim} was made for one node (ReadWriteOnce): one replica serves from "
                "it, and more only from the volume of a later revision"
            )
            return 1
        return wanted

    def _own(self, found: tuple[Object, ...], name: str) -> Object | None:
        return next(
            (
                each
                for each in found
                if each["metadata"]["name"] == name and naming.owned_by(self.job, each)
            ),
            None,
        )

    def _selected(self) -> str | None:
        """Return the build that serves.

        The Service is ahead of the status where the operator has just moved it, to a build that
        can only be one of the job's that has not failed. Any other was put there by hand.
        """
        told: str | None = self.job.get("status", {}).get("serving", {}).get("build")
        if self.service is None:
            return told if told in self.deployments else None
        live: str | None = (self.service["spec"].get("selector") or {}).get(naming.BUILD)
        if live is None or live == told:
            return told
        if live in self.deployments and not self.failed(live):
            return live
        if told in self.deployments or self.ledger.revision_of(live) is None:
            return told
        return live

    def _model(self, revision: str, build: str) -> vllm.Model:
        """Return what is known of a build's model."""
        artifacts = self.ledger.revision(revision).artifacts
        merged = self.ledger.attempt(revision, "merge", build)
        known = merged.merged_dtype if merged is not None else None
        return vllm.Model(
            dtype=known or self.spec.merge.dtype,
            base_bytes=artifacts.base_bytes,
            custom_template=artifacts.chat_template is not None,
        )
