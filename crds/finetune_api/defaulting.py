"""Complete a job's spec with defaults. Pure: no I/O, no clock, no environment.

Values come in three layers: the job's spec, the chart defaults (the chart value ``defaults``, and
over it those of a profile, see ``profile_defaults``), and the built-in values. A revision stores
the lower two layers as they were when it started, and every later reconcile resolves the spec with
the stored layers. An operator upgrade or a changed chart default therefore never retrains a
completed job, and writing a default explicitly changes nothing.

Each field has an edit class (``markers.Edit``). The digest of the fields with the class ``RETRAIN``
identifies the revision. The digest of that and of the fields with the class ``REMERGE`` identifies
the build.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from finetune_api.base import Values
from finetune_api.default_credentials import without_foreign_credentials
from finetune_api.fitting import fit, fit_evaluation, fit_sources, without_foreign_content
from finetune_api.layering import builtin_values, has, layered, value_at, without_nulls
from finetune_api.markers import Edit
from finetune_api.revision_hash import digest, name_of, part_of
from finetune_api.several_datasets import combined, one_by_one
from finetune_api.v1alpha1.data.rows import COLUMNS_OF_FORMAT
from finetune_api.v1alpha1.profile import DEFAULT_ANNOTATION
from finetune_api.v1alpha1.serving import SHARED
from finetune_api.v1alpha1.spec import FineTuneJobSpec
from finetune_api.v1alpha1.status.ledger import ParentAdapter


class InvalidSpec(ValueError):
    """A spec that cannot be run; the message names field, value and remediation."""


class UnknownField(InvalidSpec):
    """A field that this version does not have, in a job or in the defaults of its revision."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Resolved:
    """A complete spec, and the digests that identify what it produces.

    Compared by identity, so that what follows from a spec can be remembered with it.
    """

    spec: FineTuneJobSpec
    digest: str
    """Digest of the fields that affect training. Revisions are equal if it is equal."""
    build_digest: str
    """Digest of these and of the fields that affect a merge, likewise for builds."""
    retry_key: str
    """Digest of the fields that affect a retry. If it changes, a failed stage is retried."""
    serve_key: str
    """Digest of the fields that affect serving. If it changes, a failed build is served again."""
    listed: bool
    """Whether the job has a list of datasets, although ``spec`` has ``dataset`` for a short one."""
    parent: ParentAdapter | None = None
    """The adapter of another job to continue from; ``spec`` then has its place as a source."""

    @property
    def revision(self) -> str:
        """Name of the revision."""
        return name_of(self.digest)

    @property
    def build(self) -> str:
        """Name of the build."""
        return name_of(self.build_digest)


def builtin_defaults() -> Values:
    """Return the built-in value of every field that has one, as a partial spec."""
    return builtin_values(FineTuneJobSpec)


def effective_defaults(chart_defaults: Mapping[str, Any], *, strict: bool = False) -> Values:
    """Return the chart defaults over the built-in values.

    Raise InvalidSpec if no job could have them: an unknown field, a value out of bounds, or two
    values that exclude each other. strict: a number as a text is invalid, too. The schema of the
    chart checks types, and Helm writes 0.00001 as 1e-05, which YAML 1.1 reads as a text.
    """
    written = without_nulls(chart_defaults)
    if "profile" in written:
        raise InvalidSpec(
            "defaults.profile: defaults cannot name a profile; to let a profile apply to all jobs "
            f'that name none, set its annotation {DEFAULT_ANNOTATION} to "true"'
        )
    if has(written, "training", "startFrom", "job"):
        raise InvalidSpec(
            "defaults.training.startFrom.job: defaults cannot name a job, which is in the "
            "namespace of each job: set training.startFrom.job in the jobs"
        )
    for field, is_shared in (
        ("endpointRef", has(written, "serving", "endpointRef")),
        ("mode", value_at(written, ("serving", "mode")) == SHARED),
    ):
        if is_shared:
            raise InvalidSpec(
                f"defaults.serving.{field}: defaults cannot name a FineTuneEndpoint, which is in "
                "the namespace of each job: set serving.mode and serving.endpointRef in the jobs"
            )
    _require_valid(written, strict=strict)
    return layered(FineTuneJobSpec, builtin_defaults(), written)


def resolve(spec: Mapping[str, Any], defaults: Mapping[str, Any]) -> Resolved:
    """Return a job's spec completed with defaults.

    spec: as stored in the cluster; defaults: the result of ``effective_defaults`` at the start of
    the revision. Raise InvalidSpec if the completed spec cannot be run.
    """
    present = without_nulls(spec)
    listed = "datasets" in present
    stored, written = without_nulls(defaults), one_by_one(present)
    values = combined([_completed(dataset_spec, stored) for dataset_spec in written])
    values = without_foreign_credentials(values, written, stored)
    try:
        model = FineTuneJobSpec.model_validate(values, by_name=False)
    except ValidationError as error:
        unknown = any(finding["type"] == "extra_forbidden" for finding in error.errors())
        refusal = UnknownField if unknown else InvalidSpec
        raise refusal(_explained(error, "spec", listed=listed)) from error
    training_digest = digest(part_of(model, Edit.RETRAIN))
    retry_key = digest(part_of(model, Edit.RETRY))
    return Resolved(
        spec=model,
        digest=training_digest,
        build_digest=digest([training_digest, part_of(model, Edit.REMERGE)]),
        retry_key=retry_key,
        serve_key=digest([retry_key, part_of(model, Edit.ROLL)]),
        listed=listed,
    )


def _completed(written: Values, defaults: Values) -> Values:
    """Return the values of a spec with at most one dataset over the defaults."""
    lower = without_foreign_content(defaults, written)
    if "dataset" not in written or "datasets" in written:
        # The defaults of dataset belong to a job that has one.
        lower = {key: value for key, value in lower.items() if key != "dataset"}
    return fit(layered(FineTuneJobSpec, lower, written), written)


def _require_valid(chart_defaults: Values, *, strict: bool) -> None:
    """Raise InvalidSpec unless a job of some dataset format could have these values."""
    errors = []
    for format_ in COLUMNS_OF_FORMAT:
        rows = {"source": "hf://org/name", "format": format_}
        job: Values = {"model": {"source": "hf://org/name"}, "dataset": rows}
        if has(chart_defaults, "evaluation", "dataset"):
            job["evaluation"] = {"dataset": {**rows, "source": "hf://org/test"}}
        values = layered(FineTuneJobSpec, job, chart_defaults)
        try:
            fitted = fit_sources(fit_evaluation(values, {}), {})
            FineTuneJobSpec.model_validate(fitted, strict=strict or None, by_name=False)
        except ValidationError as error:
            errors.append(error)
        else:
            return
    raise InvalidSpec(_explained(errors[0], "defaults")) from errors[0]


def _explained(error: ValidationError, root: str, *, listed: bool = False) -> str:
    """Return pydantic's findings as text with the field, the rule and the value.

    listed: whether ``dataset`` is the only entry of ``datasets``.
    """
    sentences = []
    for finding in error.errors():
        steps = [str(step) for step in finding["loc"]]
        if listed and steps[:1] == ["dataset"]:
            steps[:1] = ["datasets", "0"]
        path = ".".join((root, *steps))
        text = finding["msg"].removeprefix("Value error, ")
        if finding["type"] == "extra_forbidden":
            text = "unknown field; remove it, or use an operator version that supports it"
        value = finding["input"]
        shown = "" if isinstance(value, Mapping) else f" (it is {value!r})"
        sentences.append(f"{path}: {text}{shown}")
    return "; ".join(sentences)
