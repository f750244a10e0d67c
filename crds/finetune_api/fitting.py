"""Fit the chart defaults and built-in values to a job, so that they never make its spec invalid.

Values that the user wrote are never changed here; the validation rules report conflicts between
them. Defaults are written out or removed in the same way in all jobs, so that a user who writes a
default explicitly gets the same revision.

Each function takes the layered values and the user's values (``written``), and returns new values.
"""

from collections.abc import Mapping
from typing import Any

from finetune_api.base import Values
from finetune_api.layering import Path, builtin_values, has, value_at, with_value, without
from finetune_api.v1alpha1.data.rows import AUTO, COLUMNS_OF_FORMAT, CONVERSATIONS, Rows
from finetune_api.v1alpha1.publishing.tracking import NAME as MLFLOW
from finetune_api.v1alpha1.serving import OF_OWN_PODS, SHARED
from finetune_api.v1alpha1.sources import CONFIGMAP_SOURCE_PREFIX, inapplicable_fields
from finetune_api.v1alpha1.spec import FineTuneJobSpec

DATASET: Path = ("dataset",)
EVALUATION_DATASET: Path = ("evaluation", "dataset")
VALIDATION_FRACTION: Path = ("dataset", "validationFraction")
PROMPT_TEMPLATE: Path = ("dataset", "promptTemplate")
MAX_STEPS: Path = ("training", "maxSteps")
TRAIN_ON: Path = ("training", "trainOn")
NODE_SELECTOR: Path = ("placement", "nodeSelector")
PUBLISH: Path = ("publish",)
TRACKING: Path = ("tracking",)
WITH_ROWS = (DATASET, EVALUATION_DATASET)
START_FROM: Path = ("training", "startFrom")
WITH_SOURCE: tuple[Path, ...] = (("model",), *WITH_ROWS, START_FROM)
OWN_PROMPTS = ("chatTemplate", "promptFormat")
NEEDS_HELD_OUT_ROWS = ("evalSteps", "earlyStoppingPatience")
FIELDS_OF_ROWS = frozenset(str(info.alias) for info in Rows.model_fields.values())
FIELDS_OF_CONTENT: Mapping[Path, frozenset[str]] = {
    ("model",): frozenset({"revision", "sha256"}),
    **dict.fromkeys(WITH_ROWS, FIELDS_OF_ROWS),
    START_FROM: frozenset({"revision"}),
}
"""Fields that describe the content of a source, and mean nothing for another source."""


def fit(values: Values, written: Values) -> Values:
    """Return the values with every lower layer fitted to what the user wrote."""
    for step in (
        fit_length,
        fit_evaluation,
        _fit_held_out,
        fit_sources,
        fit_columns,
        _fit_prompt,
        _fit_train_on,
        fit_node_selector,
        _fit_serving,
        _fit_publish,
        _fit_tracking,
    ):
        values = step(values, written)
    return values


def without_foreign_content(defaults: Values, written: Values) -> Values:
    """Return defaults without the fields that describe another source than the user's.

    A default model or dataset with another source is another model or dataset: its revision, split,
    columns and so on do not apply, and the built-in values take their place.
    """
    for path, fields in FIELDS_OF_CONTENT.items():
        lower, own = value_at(defaults, path), value_at(written, path)
        if not isinstance(own, Mapping) or not isinstance(lower, Mapping):
            continue
        if lower.get("source") in (None, own.get("source")):
            continue
        builtin = value_at(builtin_values(FineTuneJobSpec), path) or {}
        kept = {name: value for name, value in lower.items() if name not in fields}
        kept |= {name: builtin[name] for name in lower if name in fields and name in builtin}
        defaults = with_value(defaults, path, kept)
    return defaults


def fit_length(values: Values, written: Values) -> Values:
    """Remove epochs or maxSteps of a lower layer if the user set the other field."""
    epochs, steps = has(written, "training", "epochs"), has(written, *MAX_STEPS)
    if epochs and not steps:
        return without(values, MAX_STEPS)
    if not epochs and has(values, *MAX_STEPS):
        return with_value(values, ("training", "epochs"), None)
    return values


def fit_evaluation(values: Values, written: Values) -> Values:
    """Select an evaluation dataset or held-out rows according to the user's values.

    A lower layer can complete an evaluation dataset that the user set. It can also define one: it
    applies to jobs that render rows in the same way and train on other rows. A job with an
    evaluation dataset holds out no rows.
    """
    own, dataset = value_at(values, EVALUATION_DATASET), value_at(values, DATASET)
    if not isinstance(own, Mapping):
        return values
    if not isinstance(dataset, Mapping):
        # The spec is invalid; only what the user wrote is reported.
        written_own = has(written, *EVALUATION_DATASET)
        return values if written_own else without(values, EVALUATION_DATASET)
    if not has(written, *EVALUATION_DATASET):
        same_rendering = (own.get("format") == "text") == (dataset.get("format") == "text")
        applies = "source" in own and same_rendering and _rows_of(own) != _rows_of(dataset)
        if not applies or has(written, *VALIDATION_FRACTION):
            return without(values, EVALUATION_DATASET)
    if not has(written, *VALIDATION_FRACTION):
        return with_value(values, VALIDATION_FRACTION, 0.0)
    return values


def _rows_of(dataset: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return which rows a dataset names: source, revision, configuration and split."""
    return (
        dataset.get("source"),
        dataset.get("revision") or "main",
        dataset.get("config"),
        dataset.get("split") or "train",
    )


def _fit_held_out(values: Values, written: Values) -> Values:
    """Resolve a conflict in lower layers: no rows are held out, but a field needs held-out rows.

    The user's value takes precedence. If the user set neither, no rows are held out.
    """
    if has(values, *EVALUATION_DATASET) or value_at(values, VALIDATION_FRACTION) != 0:
        return values
    paths = {("training", "advanced", name) for name in NEEDS_HELD_OUT_ROWS}
    asked = {path for path in paths if has(written, *path)}
    if asked and not has(written, *VALIDATION_FRACTION):
        return without(values, VALIDATION_FRACTION)
    return without(values, *(paths - asked))


def fit_sources(values: Values, written: Values) -> Values:
    """Remove defaults that do not apply to the kind of a source, and pin its default revision."""
    for path in WITH_SOURCE:
        part = value_at(values, path)
        if not isinstance(part, Mapping):
            continue
        if path == START_FROM and "source" not in part and not has(written, *path):
            # Access to adapters, for the jobs that continue from one.
            values = without(values, path)
            continue
        if path == START_FROM:
            values = _fit_start(values, value_at(written, path))
            part = value_at(values, path)
        source = str(part.get("source"))
        foreign = ((*path, *inner) for inner in inapplicable_fields(source))
        values = without(values, *(field for field in foreign if not has(written, *field)))
        if source.startswith("hf://") and not has(values, *path, "revision"):
            values = with_value(values, (*path, "revision"), "main")
        if source.startswith(CONFIGMAP_SOURCE_PREFIX) and not has(written, *path, "split"):
            values = with_value(values, (*path, "split"), "train")
    return values


def _fit_start(values: Values, written: Any) -> Values:
    """Remove the other adapter of a lower layer if the user named a source or a job."""
    own = [name for name in ("source", "job") if isinstance(written, Mapping) and name in written]
    if own == ["source"]:
        return without(values, (*START_FROM, "job"))
    return without(values, (*START_FROM, "source")) if own == ["job"] else values


def fit_columns(values: Values, written: Values) -> Values:
    """Remove column names that equal the format's own, and defaults for other formats."""
    for path in WITH_ROWS:
        format_, mapping = (value_at(values, (*path, name)) for name in ("format", "mapping"))
        if format_ not in CONVERSATIONS and isinstance(mapping, Mapping):
            foreign = [(*path, "mapping", str(name)) for name in mapping]
            values = without(values, *(field for field in foreign if not has(written, *field)))
        columns = value_at(values, (*path, "columns"))
        if not isinstance(columns, Mapping):
            continue
        parts = next((parts for name, parts in COLUMNS_OF_FORMAT.items() if name == format_), ())
        kept = {
            part: name
            for part, name in columns.items()
            if (name != part if part in parts else has(written, *path, "columns", part))
        }
        values = with_value(values, (*path, "columns"), kept)
    return values


def _fit_prompt(values: Values, written: Values) -> Values:
    """Remove default prompts that do not apply to the dataset's format or to the user's prompt."""
    format_ = value_at(values, ("dataset", "format"))
    own = {name for name in OWN_PROMPTS if has(written, "dataset", name)}
    if (own or format_ != "alpaca") and not has(written, *PROMPT_TEMPLATE):
        values = with_value(values, PROMPT_TEMPLATE, "auto")
    removed = set()
    if own or format_ == "text" or value_at(values, PROMPT_TEMPLATE) == "alpaca":
        removed |= set(OWN_PROMPTS)
    if format_ in (AUTO, *CONVERSATIONS):
        removed.add("promptFormat")
    return without(values, *(("dataset", name) for name in removed - own))


def _fit_train_on(values: Values, written: Values) -> Values:
    """Write out the default of training.trainOn, which depends on the dataset's format."""
    dataset = value_at(values, DATASET)
    if not isinstance(dataset, Mapping):
        return values
    if dataset.get("format") != "text":
        return values if has(values, *TRAIN_ON) else with_value(values, TRAIN_ON, "responses")
    return values if has(written, *TRAIN_ON) else with_value(values, TRAIN_ON, "all")


def fit_node_selector(values: Values, written: Values) -> Values:
    """Remove the default node selector if the user set a queue and no node selector."""
    if "queueName" in written and not has(written, *NODE_SELECTOR):
        return without(values, NODE_SELECTOR)
    return values


def _fit_serving(values: Values, written: Values) -> Values:
    """Remove lower layers' fields of serving pods from a job without any, or its endpoint."""
    shared = value_at(values, ("serving", "mode")) == SHARED
    fields = OF_OWN_PODS if shared else ("endpointRef",)
    unwritten = (("serving", name) for name in fields if not has(written, "serving", name))
    return without(values, *unwritten)


def targets_of(layer: Values) -> Any:
    """Return the targets of publishing in a layer of values, None if it does not set them."""
    return value_at(layer, PUBLISH)


def _fit_publish(values: Values, written: Values) -> Values:
    """Remove default targets that need a merge or an endpoint which the job does not have."""
    targets = value_at(values, PUBLISH)
    if has(written, *PUBLISH) or not isinstance(targets, list):
        return values
    serves = value_at(values, ("serving", "enabled")) is not False
    mode = value_at(values, ("serving", "mode"))
    from_adapter = serves and mode in ("adapter", SHARED)
    merges = value_at(values, ("merge", "enabled")) is not False and not from_adapter

    def applies(target: Any) -> bool:
        if not isinstance(target, Mapping):
            return True
        needs_merge = target.get("what") == "merged" or target.get("when") == "Merged"
        return (merges or not needs_merge) and (serves or target.get("when") != "Verified")

    kept = [target for target in targets if applies(target)]
    return with_value(values, PUBLISH, kept) if kept else without(values, PUBLISH)


def _fit_tracking(values: Values, written: Values) -> Values:
    """Remove what a default tracking server cannot do for the targets of the job."""
    if has(written, *TRACKING) or value_at(values, TRACKING) is None:
        return values
    targets = value_at(values, PUBLISH)
    names = [target.get("name") for target in targets or () if isinstance(target, Mapping)]
    if MLFLOW in names:
        return without(values, TRACKING)
    return values if names else without(values, (*TRACKING, MLFLOW, "registeredModel"))
