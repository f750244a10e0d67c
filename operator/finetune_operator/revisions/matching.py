"""Which retained revision a spec is equal to.

The present spec is resolved with each retained revision's own defaults first, so an upgrade or a
changed chart value never looks like an edit. Revisions with the profile of the job come first. For
one without a profile, the defaults of the job's profile are layered over the frozen ones; a profile
that the job no longer names cannot be taken out of frozen defaults, so the present values count
there. ``auto`` and the format or training backend that it selects are equal, too. Revisions and
builds are equal if their digests are; a name is only the beginning of a digest.
"""

from collections.abc import Iterable

from finetune_api.base import Values
from finetune_api.defaulting import InvalidSpec, Resolved, UnknownField, resolve
from finetune_api.layering import layered, without_nulls
from finetune_api.several_datasets import single
from finetune_api.v1alpha1.data.dataset import NamedDataset
from finetune_api.v1alpha1.data.rows import AUTO, Rows
from finetune_api.v1alpha1.data.statistics import FormatRecord
from finetune_api.v1alpha1.sources import Kind
from finetune_api.v1alpha1.spec import FineTuneJobSpec
from finetune_api.v1alpha1.status.ledger import Revision
from finetune_operator.config import Settings
from finetune_operator.objects import status_view
from finetune_operator.revisions import configurations
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.profiles import has_profile
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
    current = status_view.of_job(job).revision
    others: list[tuple[str, Settings]] = []
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
        if not has_profile(settings, job):
            others.append((revision, settings))
            continue
        try:
            resolved = _equal(job, ledger.revision(revision), settings.defaults)
        except UnknownField as error:
            if revision == current:
                raise _unknown_field(job, revision, config, error) from error
            continue
        except InvalidSpec:
            # An old chart default may conflict with the present spec; the new ones decide.
            continue
        if resolved is not None:
            return resolved, settings.defaults
    if layer is None:
        return None
    for revision, settings in others:
        defaults = (
            configurations.over_frozen(layer, settings)
            if settings.profile is None
            else configurations.defaults(config)
        )
        try:
            resolved = _equal(job, ledger.revision(revision), defaults)
        except InvalidSpec:
            continue
        if resolved is not None:
            return resolved, defaults
    return None


def _equal(job: Object, revision: Revision, defaults: Values) -> Resolved | None:
    """Return the spec resolved with defaults, None if a retained revision is not equal to it."""
    assert revision.frozen is not None
    resolved = RESOLVED.resolve(job["spec"], defaults)
    if resolved.digest != revision.frozen.digest:
        resolved = _with_equal_choices(job, defaults, resolved, revision)
    return resolved if resolved.digest == revision.frozen.digest else None


def _with_equal_choices(
    job: Object, defaults: Values, resolved: Resolved, revision: Revision
) -> Resolved:
    """Return the spec with the formats and the backend that are equal to those of a revision.

    For a revision that prepare has finished, ``auto`` and the value that it selects are equal. For
    each format, prepare has recorded the value that the revision was started with. The backend can
    only be one of two. Returns the spec resolved with one of the two backends.
    """
    frozen = revision.frozen
    present = single(without_nulls(job["spec"]))
    spec = _with_equal_formats(present, resolved.spec, revision.data.formats or ())
    if spec != present:
        resolved = RESOLVED.resolve(spec, defaults)
    selected, written = revision.backend, resolved.spec.training.advanced.backend
    if frozen is not None and resolved.digest == frozen.digest:
        return resolved
    if selected is None or written not in (AUTO, selected.automatic):
        return resolved
    equal = selected.automatic if written == AUTO else AUTO
    advanced = {"training": {"advanced": {"backend": equal}}}
    spec = layered(FineTuneJobSpec, spec, advanced)
    return RESOLVED.resolve(spec, defaults)


def _with_equal_formats(
    written: Values, spec: FineTuneJobSpec, recorded: Iterable[FormatRecord]
) -> Values:
    """Return the written spec with the formats that a revision was started with, where equal."""
    parts: dict[Kind, Rows] = {**spec.rows_of_training}
    if spec.evaluation.dataset is not None:
        parts["evaluation.dataset"] = spec.evaluation.dataset
    for record in recorded:
        rows = parts.get(record.dataset)
        if rows is None or rows.format == record.requested:
            continue
        if not {rows.format, record.requested} <= {AUTO, record.detected}:
            continue
        if isinstance(rows, NamedDataset) and rows.name:
            datasets = [
                {**dataset, "format": record.requested} if dataset["name"] == rows.name else dataset
                for dataset in written["datasets"]
            ]
            written = {**written, "datasets": datasets}
            continue
        part: Values = {"format": record.requested}
        for step in reversed(record.dataset.split(".")):
            part = {step: part}
        written = layered(FineTuneJobSpec, written, part)
    return written


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
