"""The cause that keeps a pod from running, and the facts that explain it."""

from collections.abc import Iterable
from dataclasses import dataclass

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.manifests import placement
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object


@dataclass(frozen=True, kw_only=True)
class Blocker:
    """The cause that keeps a stage from starting.

    ``waits`` is True if the block ends when a resource becomes free: such a job never becomes
    Stalled. ``lasts`` is True if the block does not end by itself: the job has failed at once.
    ``grace`` is the number of seconds for which the block is normal and is not reported.
    """

    reason: Reason
    message: str
    waits: bool = False
    lasts: bool = False
    grace: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Objects that explain why a pod of a job does not run."""

    events: tuple[Object, ...] = ()
    """About the job's Jobs, pods and volumes."""

    volumes: tuple[Object, ...] = ()
    """The job's PersistentVolumeClaims."""

    placed_by: str = "spec.placement"
    """Field or chart value that the labels required of a node come from."""

    def volume(self, name: str) -> Object | None:
        """Return a volume of the job by its name, or None."""
        return next((volume for volume in self.volumes if volume["metadata"]["name"] == name), None)


def evidence(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    *,
    gpu: bool,
    serving: bool = False,
    card: str | None = None,
) -> Evidence:
    """Return the evidence about a job's pods. gpu, serving, card: as in ``placement.render``."""
    return Evidence(
        events=tuple(snapshot.events),
        volumes=tuple(volume.object for volume in snapshot.volumes),
        placed_by=placement.origin(
            target.config.gpu,
            target.resolved,
            snapshot.job["spec"],
            gpu=gpu,
            serving=serving,
            card=card,
        ),
    )


def names(values: Iterable[str]) -> str:
    """Return values as a list in a sentence."""
    *others, last = values
    return f"{', '.join(others)} and {last}" if others else last
