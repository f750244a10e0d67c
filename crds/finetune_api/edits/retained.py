"""The retained revision that a spec is equal to. Pure.

The spec is resolved with each retained revision's own defaults, so that an upgrade or a changed
chart value never looks like an edit. Revisions with the profile of the job come first. ``auto`` and
the format or training backend that it selects are equal, too.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from finetune_api.base import Values
from finetune_api.defaulting import InvalidSpec, Resolved, UnknownField
from finetune_api.layering import layered, without_nulls
from finetune_api.several_datasets import single
from finetune_api.v1alpha1.data.dataset import NamedDataset
from finetune_api.v1alpha1.data.rows import AUTO, Rows
from finetune_api.v1alpha1.data.statistics import FormatRecord
from finetune_api.v1alpha1.profile import FrozenProfile
from finetune_api.v1alpha1.sources import Kind
from finetune_api.v1alpha1.spec import FineTuneJobSpec
from finetune_api.v1alpha1.status.ledger import Revision

Resolve = Callable[[Values, Values], Resolved]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A retained revision, with the defaults and the profile that it was started with."""

    record: Revision
    defaults: Values
    profile: FrozenProfile | None


def has_profile(profile: FrozenProfile | None, written: str | None) -> bool:
    """Report whether the profile of a revision is the one that a job names. written: the field.

    A job that names none keeps the settings with which it started, whichever profile is the default
    now; and to write the name of the default changes nothing.
    """
    return written is None if profile is None else profile.is_of(written)


def select(
    spec: Values,
    candidates: Iterable[Candidate],
    *,
    current: str | None,
    with_profile: Callable[[Candidate], Values] | None,
    resolve: Resolve,
) -> tuple[Resolved, Values] | None:
    """Return the spec as the candidate that it is equal to was resolved, and its defaults.

    current: the present revision of the job, which comes first among the candidates. with_profile:
    the defaults of a candidate with the job's profile instead of its own; None if the profile has
    no values: then only candidates with this profile count. Raises UnknownField if the defaults of
    the current revision have a field that this version lacks.
    """
    others = []
    for candidate in candidates:
        if not has_profile(candidate.profile, spec.get("profile")):
            others.append(candidate)
            continue
        try:
            resolved = _equal(spec, candidate.record, candidate.defaults, resolve)
        except UnknownField:
            if candidate.record.revision == current:
                raise
            continue
        except InvalidSpec:
            # An old chart default may conflict with the present spec; the new ones decide.
            continue
        if resolved is not None:
            return resolved, candidate.defaults
    if with_profile is None:
        return None
    for candidate in others:
        defaults = with_profile(candidate)
        try:
            resolved = _equal(spec, candidate.record, defaults, resolve)
        except InvalidSpec:
            continue
        if resolved is not None:
            return resolved, defaults
    return None


def _equal(spec: Values, record: Revision, defaults: Values, resolve: Resolve) -> Resolved | None:
    """Return the spec resolved with defaults, None if a retained revision is not equal to it."""
    assert record.frozen is not None, "a candidate has a frozen configuration"
    resolved = resolve(spec, defaults)
    if resolved.digest != record.frozen.digest:
        resolved = _with_equal_choices(spec, defaults, resolved, record, resolve)
    return resolved if resolved.digest == record.frozen.digest else None


def _with_equal_choices(
    written: Values, defaults: Values, resolved: Resolved, record: Revision, resolve: Resolve
) -> Resolved:
    """Return the spec with the formats and the backend that are equal to those of a revision.

    For a revision that prepare has finished, ``auto`` and the value that it selects are equal. For
    each format, prepare has recorded the value that the revision was started with. The backend can
    only be one of two. Returns the spec resolved with one of the two backends.
    """
    frozen = record.frozen
    present = single(without_nulls(written))
    spec = _with_equal_formats(present, resolved.spec, record.data.formats or ())
    if spec != present:
        resolved = resolve(spec, defaults)
    selected, backend = record.backend, resolved.spec.training.advanced.backend
    if frozen is not None and resolved.digest == frozen.digest:
        return resolved
    if selected is None or backend not in (AUTO, selected.automatic):
        return resolved
    equal = selected.automatic if backend == AUTO else AUTO
    advanced = {"training": {"advanced": {"backend": equal}}}
    return resolve(layered(FineTuneJobSpec, spec, advanced), defaults)


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
