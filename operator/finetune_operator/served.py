"""The serving side of a job: its builds' Deployments, and the Service that selects one of them."""

from finetune_operator.children import names, serving, vllm
from finetune_operator.ledger import Ledger
from finetune_operator.revisions import Chosen
from finetune_operator.state import Apply, Object, Observed


class Served:
    """What there is to serve with, and what it is made of.

    ``build`` is the one that the Service selects, or did before it was lost; None where nothing has
    been served yet. ``warnings`` are filled by ``replicas``.
    """

    def __init__(self, seen: Observed, chosen: Chosen, ledger: Ledger) -> None:
        self.seen, self.chosen, self.ledger = seen, chosen, ledger
        self.job, self.spec = seen.job, chosen.resolved.spec
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
        self.build = self._selected()

    def selection(self, build: str) -> Apply:
        """Return what lets the Service select a build."""
        return Apply(object=serving.service(self.job, self.chosen, build))

    def deployment(
        self, build: str, *, replicas: int, attempt: int, of: Chosen | None = None
    ) -> Apply:
        """Return what makes a build's Deployment. of: its revision, the chosen one by default."""
        chosen = of or self.chosen
        model = self._model(chosen.revision, build)
        return Apply(
            object=serving.deployment(self.job, chosen, model, replicas=replicas, attempt=attempt)
        )

    def replicas(self, build: str | None = None) -> int:
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

    def _own(self, found: tuple[Object, ...], name: str) -> Object | None:
        return next(
            (
                each
                for each in found
                if each["metadata"]["name"] == name and names.owned_by(self.job, each)
            ),
            None,
        )

    def _selected(self) -> str | None:
        if self.service is not None:
            build = self.service["spec"].get("selector", {}).get(names.BUILD)
        else:
            build = self.job.get("status", {}).get("serving", {}).get("build")
            build = build if build in self.deployments else None
        return None if build is None else str(build)

    def _model(self, revision: str, build: str) -> vllm.Model:
        """Return what is known of a build's model."""
        artifacts = self.ledger.revision(revision).artifacts
        merged = self.ledger.attempt(revision, "merge", build)
        known = merged.merged_dtype if merged is not None else None
        return vllm.Model(
            dtype=known or self.spec.merge.dtype,
            base_bytes=artifacts.base_bytes,
            own_template=artifacts.chat_template is not None,
        )
