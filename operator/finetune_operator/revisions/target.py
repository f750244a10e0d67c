"""The target revision: which revision a spec asks for, and the configuration frozen at its start.

The ledger records for each retained revision the digest of its training part and the configuration
(images, serving command, defaults) that it was started with. A spec that equals a retained revision
(``matching``) keeps this configuration; any other one gets the present one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from finetune_api.base import Values
from finetune_api.defaulting import InvalidSpec, Resolved
from finetune_api.fitting import targets_of
from finetune_api.policy.limits import Names
from finetune_api.revision_hash import digest
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.spec import FineTuneJobSpec
from finetune_api.v1alpha1.status.ledger import FrozenConfiguration, Revision
from finetune_operator.config import Images, Settings
from finetune_operator.connections import Hub
from finetune_operator.objects import status_view
from finetune_operator.objects.stages import is_job_stage
from finetune_operator.revisions import configurations, matching, parents
from finetune_operator.revisions.documents import freeze, frozen_again
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.profiles import UnavailableProfile, has_profile
from finetune_operator.revisions.resolved_specs import RESOLVED
from finetune_operator.revisions.sharing.endpoints import JobEndpoint, name_of
from finetune_operator.types import Object


class CollidingNames(InvalidSpec):
    """A revision or build has the name of another one, so their objects have equal names."""


@dataclass(frozen=True, kw_only=True)
class TargetRevision:
    """The revision that the spec asks for, resolved."""

    resolved: Resolved
    config: Settings
    """The configuration that the revision was started with, and the present values of the settings
    that are not frozen. Its defaults are complete."""

    hub: Hub
    """The hub of the targets of ``spec.publish``, which are no part of the revision: usually the
    present one, where ``config`` has that of its sources."""

    frozen: FrozenConfiguration
    """The record of this configuration, which is in the ledger once the revision has started."""

    replaced: FrozenConfiguration | None = None
    """The record in the ledger, if the job now has another profile with the same training part."""

    unavailable: parents.UnavailableParent | None = None
    """Why the revision cannot start yet; then nothing of ``training.startFrom`` is known."""

    endpoint: JobEndpoint | None = None
    """The FineTuneEndpoint in the spec; None if it does not exist, or the spec names none."""

    flavors: tuple[Mapping[str, str], ...] = ()
    """Node labels of the ResourceFlavors of its queue; empty if they are not known."""

    hosts: tuple[Names, ...] = ()
    """Hosts to which the profiles of the job limit its downloads, besides the policy."""

    prevented: UnavailableProfile | InvalidSpec | None = None
    """Why the revision that the spec describes cannot start. The target is then the one that
    continues (``continued``), and nothing of its training part is known."""

    @property
    def revision(self) -> str:
        """Name of the revision: 8 hex digits."""
        return self.resolved.revision

    @property
    def build(self) -> str:
        """Name of the build: 8 hex digits."""
        return self.resolved.build

    @property
    def endpoint_name(self) -> str | None:
        """Name of the FineTuneEndpoint in the spec; None if the job has serving pods."""
        return name_of(self.resolved.spec)

    @property
    def serve_key(self) -> str:
        """Hash of the values whose change gives a build that failed another attempt at serving."""
        key, endpoint = self.resolved.serve_key, self.endpoint
        if endpoint is None:
            return key
        return digest([key, endpoint.uid, endpoint.verified_with, endpoint.volume])

    @property
    def contract(self) -> int:
        """Version of the contract that the trainer image of the revision follows."""
        return configurations.contract(self.frozen)


def resolve_target(
    job: Object,
    ledger: Ledger,
    config: Settings,
    unavailable: UnavailableProfile | None = None,
    profile: Values | None = None,
    parent: Object | None = None,
) -> TargetRevision:
    """Return the revision that the job's spec asks for, a retained one if it is equal.

    config: the settings of the job, with the values of its profile; unavailable: why the profile
    has none; profile: its own defaults; parent: the job in ``training.startFrom.job``. Raises
    unavailable if the revision has not started, InvalidSpec if the spec cannot be run,
    UnsupportedVersion if an operator of another version started the current revision and its
    configuration cannot be read here: to resolve the spec without it would look like an edit, and
    train again.
    """
    layer = (profile or {}) if unavailable is None else None
    resolution = matching.retained(job, ledger, config, layer)
    if resolution is None:
        if unavailable is not None:
            raise unavailable
        defaults = configurations.defaults(config)
        resolution = RESOLVED.resolve(job["spec"], defaults), defaults
    resolved, defaults = resolution
    _require_own_names(resolved, ledger)
    _require_published_model(resolved.spec)
    frozen = ledger.frozen(resolved.revision)
    if frozen is not None and frozen.lora_rank is None and loads_adapter(resolved.spec):
        # An earlier version started the revision. An edit that cannot be run would hide the rank.
        frozen = frozen.model_copy(update={"lora_rank": resolved.spec.training.lora.r})
    waits_for = None
    if parents.wanted(resolved) is not None:
        frozen_parent = frozen.parent if frozen is not None else None
        try:
            parent_adapter = frozen_parent or parents.find(job, resolved, parent, config.hub)
            resolved = parents.with_parent(resolved, parent_adapter)
        except parents.UnavailableParent as error:
            waits_for = error
    if frozen is not None:
        settings = configurations.thaw(resolved.revision, frozen, config)
        if not has_profile(settings, job):
            settings = configurations.with_profile(settings, config, defaults)
            record = frozen_again(frozen, settings)
            return TargetRevision(
                resolved=resolved,
                config=settings,
                hub=config.hub,
                frozen=record,
                replaced=frozen,
            )
        images = _corrected(settings.images, config.images, job, ledger.revision(resolved.revision))
        if images != settings.images:
            settings = settings.model_copy(update={"images": images})
            frozen = frozen_again(frozen, settings)
        hub = _hub_of_targets(job, settings, config)
        return TargetRevision(resolved=resolved, config=settings, hub=hub, frozen=frozen)
    started = configurations.starting(config)
    frozen = freeze(job, resolved, started)
    return TargetRevision(
        resolved=resolved, config=started, hub=config.hub, frozen=frozen, unavailable=waits_for
    )


def loads_adapter(spec: FineTuneJobSpec) -> bool:
    """Report whether the pods of a job load an adapter, for which they need its rank."""
    return spec.serving.enabled and spec.serving.mode == "adapter"


def _hub_of_targets(job: Object, frozen: Settings, present: Settings) -> Hub:
    """Return the hub of the targets: the one for which their credentials are configured.

    Targets in the spec are on the present hub. Those of frozen defaults that the chart has changed
    since stay on the hub that was configured with them.
    """
    default = targets_of(configurations.defaults(present))
    if targets_of(job["spec"]) is not None or targets_of(frozen.defaults) == default:
        return present.hub
    return frozen.hub


def _corrected(frozen: Images, present: Images, job: Object, record: Revision) -> Images:
    """Return the images of a revision, with the present ones where nothing was made with its own.

    That matters only while the job waits for an image. Once a container of a stage has started, the
    trainer image stays; once a serving pod has started, so do the images of serving pods, because
    no endpoint changes without an edit.
    """
    status = status_view.of_job(job)
    if not status.is_about(record.revision) or status.ready_reason != Reason.IMAGE_PULL_FAILED:
        return frozen
    started = {
        is_job_stage(attempt.stage)
        for attempt in record.stages
        if attempt.has_run or attempt.image_id or attempt.outcome == "Completed"
    }
    serving = frozen if False in started else present
    return Images(
        trainer=frozen.trainer if True in started else present.trainer,
        serving=serving.serving,
        operator=serving.operator,
    )


def resolve_retained(
    ledger: Ledger, target: TargetRevision, revision: str, build: str
) -> TargetRevision | None:
    """Return a retained revision, to be served with the serving fields of the present spec.

    Only its names, its configuration, and the fields of the edit classes roll and retry are valid.
    Returns None if the ledger has no record of the revision or the build.
    """
    frozen, build_digest = ledger.frozen(revision), ledger.build_digest(build)
    if frozen is None or build_digest is None:
        return None
    resolved = replace(target.resolved, digest=frozen.digest, build_digest=build_digest)
    settings = configurations.thaw(revision, frozen, target.config)
    return TargetRevision(
        resolved=resolved,
        config=settings,
        hub=target.hub,
        frozen=frozen,
        endpoint=target.endpoint,
    )


def _require_own_names(resolved: Resolved, ledger: Ledger) -> None:
    """Raise CollidingNames if another revision or build of the ledger has a name of the target."""
    frozen = ledger.frozen(resolved.revision)
    for kind, name, own, other in (
        ("revision", resolved.revision, resolved.digest, frozen.digest if frozen else None),
        ("build", resolved.build, resolved.build_digest, ledger.build_digest(resolved.build)),
    ):
        if other not in (None, own):
            raise CollidingNames(
                f"the spec defines a new {kind}, but its name {name} belongs to another {kind} of "
                f"this job. The SHA-256 digest of the new {kind} is {own}. The digest of the other "
                f"{kind} is {other}. To get another name, set spec.rerun to a new value."
            )


def _require_published_model(spec: FineTuneJobSpec) -> None:
    """Raise InvalidSpec if a model is registered, but none is published.

    It is no rule of the API: the targets may be those of the defaults.
    """
    model = spec.tracking.mlflow.registered_model if spec.tracking is not None else None
    if model is not None and not spec.publish:
        raise InvalidSpec(
            "spec.tracking.mlflow.registeredModel: a version of a registered model refers to a "
            "published model, but neither the spec nor the defaults have a target: add a target "
            f"to spec.publish, or remove spec.tracking.mlflow.registeredModel (it is {model!r})"
        )
