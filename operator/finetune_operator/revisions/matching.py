"""Which retained revision a spec is equal to.

For a revision without a profile, the defaults of the job's profile are layered over the frozen
ones; a profile that the job no longer names cannot be taken out of frozen defaults, so the present
values count there. Revisions and builds are equal if their digests are; a name is only the
beginning of a digest.
"""

from collections.abc import Iterator

from finetune_api.base import Values
from finetune_api.defaulting import InvalidSpec, Resolved, UnknownField, resolve
from finetune_api.edits import retained as revisions
from finetune_api.edits.retained import Candidate
from finetune_operator.config import Settings
from finetune_operator.objects import status_view
from finetune_operator.revisions import configurations
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.resolved_specs import RESOLVED
from finetune_operator.revisions.versions import UnsupportedVersion
from finetune_operator.types import Object


def retained(
    job: Object, ledger: Ledger, config: Settings, layer: Values | None
) -> tuple[Resolved, Values] | None:
    """Return the spec as the retained revision that it is equal to was resolved, and the defaults.

    layer: the defaults of the job's profile alone. If it has no values (None), only revisions with
    this profile count.
    """

    def with_profile(candidate: Candidate) -> Values:
        assert layer is not None, "only called if the profile has values"
        if candidate.profile is not None:
            return configurations.defaults(config)
        return configurations.over_frozen(layer, candidate.defaults)

    current = status_view.of_job(job).revision
    try:
        return revisions.select(
            job["spec"],
            _candidates(ledger, config, current),
            current=current,
            with_profile=None if layer is None else with_profile,
            resolve=RESOLVED.resolve,
        )
    except UnknownField as error:
        assert current is not None, "the error is about the current revision"
        raise _unknown_field(job, current, config, error) from error


def _candidates(ledger: Ledger, config: Settings, current: str | None) -> Iterator[Candidate]:
    """Yield the revisions of a ledger, the current one first. Raises UnsupportedVersion for it."""
    for revision in sorted(ledger.names(), key=lambda name: name != current):
        frozen = ledger.frozen(revision)
        if frozen is None:
            continue
        try:
            settings = configurations.thaw(revision, frozen, config)
        except UnsupportedVersion:
            if revision == current:
                raise
            continue
        yield Candidate(
            record=ledger.revision(revision), defaults=settings.defaults, profile=settings.profile
        )


def _unknown_field(
    job: Object, revision: str, config: Settings, error: UnknownField
) -> InvalidSpec | UnsupportedVersion:
    """Return the error to raise for a field that this version does not have.

    If it is in the spec, the user can change it; an edit cannot change the frozen defaults.
    """
    try:
        resolve(job["spec"], configurations.defaults(config))
    except UnknownField:
        return InvalidSpec(
            f"{error}. Revision {revision} was started by a newer operator, which has this field. "
            "Upgrade this operator."
        )
    except InvalidSpec:
        pass
    return UnsupportedVersion(f"the frozen configuration of revision {revision}", str(error))
