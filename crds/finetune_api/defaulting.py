"""What a user wrote → what is run. Pure: no I/O, no clock, no environment.

Values come in layers: the user's, then the administrator's (the chart's ``defaults``), then the
built-in ones. A revision keeps the lower two layers as they were when it started; every later look
at the job resolves the present spec with *those*, so that neither an upgrade nor a changed chart
value can make a finished job train again, and a value that is spelled out changes nothing if it
is the value that was used anyway.

The fields themselves say (``fields.Edit``) which part of a resolution they belong to; the hash of
the training part names the revision, that of revision and merge part names the build.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from finetune_api.base import Values
from finetune_api.markers import ApiModel, Edit
from finetune_api.revision_hash import _part, digest
from finetune_api.v1alpha1.rows import COLUMNS_OF_FORMAT, Rows
from finetune_api.v1alpha1.sources import CONFIGMAP_SOURCE_PREFIX, unfit
from finetune_api.v1alpha1.spec import FineTuneJobSpec

OWN_PROMPTS = ("chatTemplate", "promptFormat")
NEED_EVALUATION = ("evalSteps", "earlyStoppingPatience")
ROWS = (("dataset",), ("evaluation", "dataset"))
OF_ROWS = frozenset(str(info.alias) for info in Rows.model_fields.values())
SOURCES = (("model",), *ROWS)
"""Where a spec has rows, and where it has a source."""


class InvalidSpec(ValueError):
    """A spec that cannot be run; the message names field, value and way out."""


class UnknownField(InvalidSpec):
    """A field that this version does not have, in a job or in the defaults of its revision."""


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A complete spec, and the names of what it makes."""

    spec: FineTuneJobSpec
    revision: str
    build: str
    retry_key: str
    serve_key: str
    """Changes with what gives a failed build another try at serving."""
    training_part: Values
    placed_by_user: bool
    """Whether the user chose where the pods run; then stage and merge are bound to it too."""


def builtin_defaults() -> Values:
    """Return the built-in value of every field that has one, as a partial spec."""
    return _defaults_of(FineTuneJobSpec)


def effective_defaults(administrators: Mapping[str, Any]) -> Values:
    """Return the administrator's defaults over the built-in ones.

    Raises InvalidSpec where no job could have them: a field that does not exist, a value out of
    bounds, two values that exclude each other.
    """
    written = _written(administrators)
    _require_fitting(written)
    return _layered(FineTuneJobSpec, builtin_defaults(), written)


def resolve(spec: Mapping[str, Any], defaults: Mapping[str, Any]) -> Resolved:
    """Complete a job's spec with defaults.

    spec: the spec as it stands in the cluster; defaults: what ``effective_defaults`` returned when
    the revision started. Raises InvalidSpec.
    """
    written = _written(spec)
    lower = _without_others_rows(_written(defaults), written)
    values = _layered(FineTuneJobSpec, lower, written)
    _fit_length(values, written)
    _fit_evaluation(values, written)
    _fit_held_out(values, written)
    _fit_dataset(values, written)
    if "queueName" in written and not _has(written, "placement", "nodeSelector"):
        _drop(values, "placement", "nodeSelector")
    try:
        model = FineTuneJobSpec.model_validate(values)
    except ValidationError as error:
        unknown = any(finding["type"] == "extra_forbidden" for finding in error.errors())
        refusal = UnknownField if unknown else InvalidSpec
        raise refusal(_explained(error, "spec")) from error
    training_part = _part(model, Edit.RETRAIN)
    revision = digest(training_part)
    retry_key = digest(_part(model, Edit.RETRY))
    return Resolved(
        spec=model,
        revision=revision,
        build=digest([revision, _part(model, Edit.REMERGE)]),
        retry_key=retry_key,
        serve_key=digest([retry_key, _part(model, Edit.ROLL)]),
        training_part=training_part,
        placed_by_user=bool(written.get("placement")),
    )


def _groups(model: type[BaseModel]) -> Iterator[tuple[str, type[ApiModel]]]:
    """Yield alias and model of the fields that are layered field by field."""
    for name, info in model.model_fields.items():
        # One that may be left out is an option of its model and None.
        for kind in (info.annotation, *get_args(info.annotation)):
            if isinstance(kind, type) and issubclass(kind, ApiModel) and not kind.atomic:
                yield info.alias or name, kind


def _defaults_of(model: type[ApiModel]) -> Values:
    groups = dict(_groups(model))
    values: Values = {}
    for name, info in model.model_fields.items():
        alias = info.alias or name
        if alias in groups:
            values[alias] = _defaults_of(groups[alias])
        elif not info.is_required() and info.default is not None:
            default = info.default
            values[alias] = (
                default.model_dump(mode="json", by_alias=True, exclude_unset=True)
                if isinstance(default, BaseModel)
                else default
            )
    return values


def _layered(model: type[ApiModel], lower: Mapping[str, Any], upper: Mapping[str, Any]) -> Values:
    values = {**lower, **upper}
    for alias, group in _groups(model):
        low, up = lower.get(alias), upper.get(alias)
        if isinstance(low, Mapping) and isinstance(up, Mapping):
            values[alias] = _layered(group, low, up)
        elif isinstance(values.get(alias), Mapping):
            values[alias] = dict(values[alias])
    return values


def _written(values: Mapping[str, Any]) -> Values:
    """Drop nulls: they say "left out"."""
    return {
        key: _written(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


def _fit_length(values: Values, written: Values) -> None:
    """Let the user's choice of epochs or steps replace the other of a lower layer, in place."""
    epochs, steps = (_has(written, "training", name) for name in ("epochs", "maxSteps"))
    if epochs and not steps:
        _drop(values, "training", "maxSteps")
    elif not epochs and _has(values, "training", "maxSteps"):
        values["training"]["epochs"] = None


def _fit_dataset(values: Values, written: Values) -> None:
    """Suit what was left out to the dataset's source and format, in place.

    An administrator's default that suits other formats is no reason to refuse a job. What a
    description calls the built-in value is written out, or taken away, so that spelling it out
    makes no other revision.
    """
    for path in SOURCES:
        _fit_source(values, written, path)
    for path in ROWS:
        _fit_columns(values, written, path)
    dataset = values.get("dataset")
    if not isinstance(dataset, dict):
        return
    if dataset.get("format") != "alpaca" and not _has(written, "dataset", "promptTemplate"):
        dataset["promptTemplate"] = "auto"
    own = [name for name in OWN_PROMPTS if _has(written, "dataset", name)]
    if own and not _has(written, "dataset", "promptTemplate"):
        dataset["promptTemplate"] = "auto"
    if own or dataset.get("format") == "text" or dataset.get("promptTemplate") == "alpaca":
        for name in OWN_PROMPTS:
            if name not in own:
                dataset.pop(name, None)
    if dataset.get("format") == "messages" and "promptFormat" not in own:
        dataset.pop("promptFormat", None)
    training = values.get("training")
    if isinstance(training, dict):
        if dataset.get("format") != "text":
            training.setdefault("trainOn", "responses")
        elif not _has(written, "training", "trainOn"):
            training["trainOn"] = "all"


def _fit_evaluation(values: Values, written: Values) -> None:
    """Evaluate on rows of their own or on held-out ones, as the user says, in place.

    A lower layer may complete a dataset that the user names, or name one for all jobs that it
    suits: those that render rows as it does, and train on others. What is evaluated on rows of its
    own holds out none.
    """
    evaluation, dataset = values.get("evaluation"), values.get("dataset")
    own = evaluation.get("dataset") if isinstance(evaluation, dict) else None
    if not isinstance(own, dict) or not isinstance(dataset, dict):
        return
    if not _has(written, "evaluation", "dataset"):
        suits = (own.get("format") == "text") == (dataset.get("format") == "text")
        suits = suits and _place(own) != _place(dataset)
        if "source" not in own or not suits or _has(written, "dataset", "validationFraction"):
            _drop(values, "evaluation", "dataset")
            return
    if not _has(written, "dataset", "validationFraction"):
        dataset["validationFraction"] = 0.0


def _place(rows: Values) -> tuple[Any, Any, Any]:
    return rows.get("source"), rows.get("revision") or "main", rows.get("split") or "train"


def _without_others_rows(defaults: Values, written: Values) -> Values:
    """Return a lower layer of which datasets are left that may complete the user's.

    One with a source of its own is another dataset: what it says of its rows is not said of the
    user's, so that the built-in values take its place.
    """
    for path in ROWS:
        lower, own = _at(defaults, path), _at(written, path)
        if not isinstance(own, Mapping) or not isinstance(lower, Mapping):
            continue
        if lower.get("source") in (None, own.get("source")):
            continue
        builtin = _at(builtin_defaults(), path)
        kept = {name: value for name, value in lower.items() if name not in OF_ROWS}
        kept |= {name: builtin[name] for name in lower if name in OF_ROWS and name in builtin}
        defaults = _replaced(defaults, path, kept)
    return defaults


def _replaced(values: Mapping[str, Any], path: tuple[str, ...], value: Values) -> Values:
    """Return values with another one at a path."""
    inner = _replaced(values[path[0]], path[1:], value) if path[1:] else value
    return {**values, path[0]: inner}


def _fit_held_out(values: Values, written: Values) -> None:
    """Suit what needs held-out rows, or that there are none, to what the user wrote, in place.

    Where he wrote of neither, none are held out.
    """
    if _has(values, "evaluation", "dataset") or _at(values, ("dataset", "validationFraction")) != 0:
        return
    path = ("training", "advanced")
    asked = [name for name in NEED_EVALUATION if _has(written, *path, name)]
    if asked and not _has(written, "dataset", "validationFraction"):
        _drop(values, "dataset", "validationFraction")
        return
    advanced = _at(values, path)
    for name in NEED_EVALUATION:
        if name not in asked and isinstance(advanced, dict):
            advanced.pop(name, None)


def _fit_columns(values: Values, written: Values, path: tuple[str, ...]) -> None:
    """Take away names that are the format's own, or a lower layer's of another format, in place."""
    rows = _at(values, path)
    columns = rows.get("columns") if isinstance(rows, dict) else None
    if isinstance(rows, dict) and isinstance(columns, dict):
        parts = COLUMNS_OF_FORMAT.get(str(rows.get("format")), ())
        rows["columns"] = {
            part: name
            for part, name in columns.items()
            if (name != part if part in parts else _has(written, *path, "columns", part))
        }


def _fit_source(values: Values, written: Values, group: tuple[str, ...]) -> None:
    """Take away what a lower layer says of other kinds of source, in place."""
    part = _at(values, group)
    if not isinstance(part, dict):
        return
    source = str(part.get("source"))
    for path in unfit(source):
        if not _has(written, *group, *path):
            place = part if len(path) == 1 else part.get(path[0])
            if isinstance(place, dict):
                place.pop(path[-1], None)
    if source.startswith("hf://"):
        part.setdefault("revision", "main")
    if source.startswith(CONFIGMAP_SOURCE_PREFIX) and not _has(written, *group, "split"):
        part["split"] = "train"


def _require_fitting(written: Values) -> None:
    """Make sure that some job could have written these values. Raises InvalidSpec."""
    refusals = []
    for format_ in COLUMNS_OF_FORMAT:
        rows = {"source": "hf://org/name", "format": format_}
        job: Values = {"model": {"source": "hf://org/name"}, "dataset": rows}
        if _has(written, "evaluation", "dataset"):
            job["evaluation"] = {"dataset": {**rows, "source": "hf://org/test"}}
        try:
            values = _layered(FineTuneJobSpec, job, written)
            _fit_evaluation(values, {})
            for path in SOURCES:
                _fit_source(values, {}, path)
            FineTuneJobSpec.model_validate(values)
        except ValidationError as error:
            refusals.append(error)
        else:
            return
    raise InvalidSpec(_explained(refusals[0], "defaults")) from refusals[0]


def _has(values: Mapping[str, Any], *path: str) -> bool:
    return _at(values, path) is not None


def _at(values: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """Return what is written at a path, None where nothing is."""
    value: Any = values
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _drop(values: Values, group: str, name: str) -> None:
    if isinstance(values.get(group), dict):
        values[group].pop(name, None)


def _explained(error: ValidationError, root: str) -> str:
    """Return pydantic's findings as sentences that name the field, its value and the rule."""
    sentences = []
    for finding in error.errors():
        path = ".".join(str(step) for step in (root, *finding["loc"]))
        text = finding["msg"].removeprefix("Value error, ")
        if finding["type"] == "extra_forbidden":
            text = "there is no such field"
        value = finding["input"]
        shown = "" if isinstance(value, Mapping) else f" (it is {value!r})"
        sentences.append(f"{path}: {text}{shown}")
    return "; ".join(sentences)
