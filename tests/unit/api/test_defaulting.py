"""Defaulting: the spec over the chart defaults over the built-in values, and frozen defaults."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.support.leaves import ALPACA, EVALUATED, LEAVES, Leaf, Spec, change_of, merged, nested

from finetune_api.contracts.job_config import JobConfig
from finetune_api.defaulting import (
    InvalidSpec,
    Resolved,
    UnknownField,
    builtin_defaults,
    effective_defaults,
    resolve,
)
from finetune_api.markers import Edit
from finetune_api.revision_hash import part_of

FORMATS = ("alpaca", "messages", "prompt-completion", "text")
DEFAULTS = builtin_defaults()


LISTS = ("placement", "datasets")
"""Groups whose values cannot be chart defaults of a job with one dataset, or depend on others."""


def _at(values: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        if not isinstance(values, dict) or step not in values:
            return None
        values = values[step]
    return values


# Values of atomic groups are replaced as a whole.
WRITTEN_OUT = {
    path: _at(DEFAULTS, path)
    for leaf in LEAVES
    for path in (leaf.path[:2] if leaf.path[0] == "resources" else leaf.path,)
    if _at(DEFAULTS, path) is not None
}


def _unwritten(spec: Spec, path: tuple[str, ...]) -> Spec:
    """Return a spec that does not write the field at a path."""
    result = copy.deepcopy(spec)
    if isinstance(group := _at(result, path[:-1]), dict):
        group.pop(path[-1], None)
    return result


def _names(resolved: Resolved) -> tuple[str, str, str]:
    return resolved.revision, resolved.build, resolved.retry_key


def _dataset(format_: str, **fields: Any) -> Spec:
    dataset = {"source": "hf://org/data", "format": format_, **fields}
    return {"model": {"source": "hf://org/model"}, "dataset": dataset}


def _evaluated(format_: str, **fields: Any) -> Spec:
    """Return a spec with an evaluation dataset."""
    dataset = {"source": "hf://org/test", "format": format_, **fields}
    return {**_dataset(format_), "evaluation": {"dataset": dataset}}


@given(paths=st.sets(st.sampled_from(sorted(WRITTEN_OUT))), format_=st.sampled_from(FORMATS))
def test_writing_a_built_in_value_changes_no_hash(
    paths: set[tuple[str, ...]], format_: str
) -> None:
    evaluated = any(path[:2] == ("evaluation", "dataset") for path in paths)
    spec = _evaluated(format_) if evaluated else _dataset(format_)
    written = spec
    for path in paths:
        spec = _unwritten(spec, path)
        written = merged(written, nested(path, WRITTEN_OUT[path]))
    assert _names(resolve(written, DEFAULTS)) == _names(resolve(spec, DEFAULTS))


@pytest.mark.parametrize(
    ("format_", "written"),
    [
        ("alpaca", {"dataset": {"revision": "main"}}),
        ("alpaca", {"dataset": {"columns": {"instruction": "instruction", "input": "input"}}}),
        ("messages", {"dataset": {"columns": {"messages": "messages"}}}),
        ("alpaca", {"training": {"trainOn": "responses"}}),
        ("text", {"training": {"trainOn": "all"}}),
        ("alpaca", {"model": {"revision": None}, "training": None}),
        ("alpaca", {"podMetadata": {}, "placement": {}}),
        ("alpaca", {"evaluation": {"dataset": None}}),
    ],
    ids=[
        "dataset.revision",
        "columns-of-alpaca",
        "columns-of-messages",
        "trainOn-of-alpaca",
        "trainOn-of-text",
        "nulls",
        "empty-groups",
        "null-evaluation-dataset",
    ],
)
def test_writing_a_described_default_changes_no_hash(format_: str, written: Spec) -> None:
    spec = _dataset(format_)
    assert _names(resolve(merged(spec, written), DEFAULTS)) == _names(resolve(spec, DEFAULTS))


@pytest.mark.parametrize("path", [("dataset", "format"), ("evaluation", "dataset", "format")])
def test_a_written_format_has_the_digest_that_it_had_without_a_default(
    path: tuple[str, ...],
) -> None:
    """The format was a required field, so no stored defaults have it."""
    stored = _unwritten(DEFAULTS, path)
    for format_ in FORMATS:
        spec = _evaluated(format_)
        assert _names(resolve(spec, stored)) == _names(resolve(spec, DEFAULTS))


def test_writing_the_default_key_of_a_secret_changes_no_hash() -> None:
    short = merged(ALPACA, {"model": {"tokenSecretRef": {"name": "hf"}}})
    long = merged(short, {"model": {"tokenSecretRef": {"key": "token"}}})
    assert _names(resolve(short, DEFAULTS)) == _names(resolve(long, DEFAULTS))


@pytest.mark.parametrize(
    "leaf",
    [
        leaf
        for leaf in LEAVES
        if _at(ALPACA, leaf.path) is None
        and leaf.path[0] not in (*LISTS, "profile")
        and leaf.path[:3] != ("training", "startFrom", "job")
        and leaf.path[:2] != ("serving", "endpointRef")
    ],
    ids=str,
)
def test_chart_default_has_the_effect_of_a_written_value(leaf: Leaf) -> None:
    change = change_of(leaf)
    if leaf.path[:2] == ("dataset", "columns"):
        spec = _dataset(_at(change.after, ("dataset", "format")) or "alpaca")
        change = type(change)(before={}, after={"dataset": {"columns": _columns(change.after)}})
    elif leaf.path[:2] == ("training", "startFrom"):
        # The chart's access to adapters needs the adapter that it is for.
        spec = merged(ALPACA, _start(source=change.after["training"]["startFrom"]["source"]))
        if leaf.path[-1] == "source":
            spec = ALPACA
    elif leaf.path[-1] != "source" and (source := _at(change.after, (leaf.path[0], "source"))):
        spec = merged(ALPACA, {leaf.path[0]: {"source": source}})
        own = {name: each for name, each in change.after[leaf.path[0]].items() if name != "source"}
        if leaf.path[1] != "oci":
            # The chart's credentials for a registry need the image that they are for.
            change = type(change)(before={}, after={leaf.path[0]: own})
    else:
        # Both datasets have format text, or neither.
        spec = merged(ALPACA, {"dataset": change.after.get("dataset", {})})
    written = resolve(merged(spec, change.after), DEFAULTS)
    default = resolve(spec, effective_defaults(change.after))
    assert _names(written) == _names(default)
    assert written.spec == default.spec


def _start(**fields: Any) -> Spec:
    return {"training": {"startFrom": fields}}


def test_access_to_adapters_in_the_chart_defaults_starts_no_job_from_an_adapter() -> None:
    access = _start(caConfigMapRef={"name": "ca"}, tokenSecretRef={"name": "hf"}, s3={})
    assert resolve(ALPACA, effective_defaults(access)).spec.training.start_from is None
    used = resolve(merged(ALPACA, _start(source="hf://org/a")), effective_defaults(access)).spec
    assert used.training.start_from is not None
    assert used.training.start_from.token_secret_ref is not None
    assert used.training.start_from.revision == "main"


def test_defaults_cannot_name_a_job_to_continue_from() -> None:
    with pytest.raises(InvalidSpec, match=r"defaults\.training\.startFrom\.job: defaults cannot"):
        effective_defaults(_start(job={"name": "support"}))


@pytest.mark.parametrize(
    ("serving", "field"),
    [
        ({"mode": "shared", "endpointRef": {"name": "a"}}, "endpointRef"),
        ({"endpointRef": {"name": "a"}}, "endpointRef"),
        ({"mode": "shared"}, "mode"),
    ],
)
def test_defaults_cannot_name_an_endpoint(serving: Spec, field: str) -> None:
    with pytest.raises(InvalidSpec, match=rf"^defaults\.serving\.{field}: defaults cannot"):
        effective_defaults({"serving": serving})


@pytest.mark.parametrize(
    ("lower", "written"),
    [
        ({"source": "hf://org/a", "revision": "v1"}, {"job": {"name": "support"}}),
        ({"caConfigMapRef": {"name": "ca"}}, {"job": {"name": "support"}}),
    ],
)
def test_a_job_to_continue_from_replaces_the_adapter_of_the_defaults(
    lower: Spec, written: Spec
) -> None:
    defaults = effective_defaults(_start(**lower))
    start = resolve(merged(ALPACA, _start(**written)), defaults).spec.training.start_from
    assert start is not None
    assert start.model_dump(exclude_defaults=True) == {"job": {"name": "support"}}


def test_the_revision_in_the_defaults_is_that_of_their_adapter() -> None:
    defaults = effective_defaults(_start(source="hf://org/a", revision="v1"))
    start = resolve(merged(ALPACA, _start(source="hf://org/b")), defaults).spec.training.start_from
    assert start is not None
    assert (start.source, start.revision) == ("hf://org/b", "main")


def _columns(spec: Spec) -> Any:
    return _at(spec, ("dataset", "columns"))


@pytest.mark.parametrize(
    "leaf", [leaf for leaf in LEAVES if _at(DEFAULTS, leaf.path) is not None], ids=str
)
def test_revision_keeps_its_stored_defaults(leaf: Leaf) -> None:
    """The built-in values of the running version do not matter."""
    *group, name = leaf.path
    change = change_of(leaf)
    other = _at(change.after, leaf.path)
    stored = copy.deepcopy(merged(DEFAULTS, change.before))
    _at(stored, tuple(group))[name] = other
    spec = _unwritten(ALPACA, leaf.path)
    assert _at(resolve(spec, stored).spec.model_dump(mode="json"), leaf.path) == other


@pytest.mark.parametrize("path", sorted(WRITTEN_OUT), ids=".".join)
def test_field_added_by_an_upgrade_changes_no_revision(path: tuple[str, ...]) -> None:
    """Defaults that were stored before the field existed do not contain it."""
    stored = copy.deepcopy(DEFAULTS)
    del _at(stored, path[:-1])[path[-1]]
    spec = _unwritten(EVALUATED if path[:2] == ("evaluation", "dataset") else ALPACA, path)
    then, now = resolve(spec, stored), resolve(spec, DEFAULTS)
    expected = part_of(now.spec, Edit.RETRAIN)
    inner = _at(expected, path[:-1])
    if isinstance(inner, dict):
        inner.pop(path[-1], None)
    assert part_of(then.spec, Edit.RETRAIN) == expected


def test_written_max_steps_or_epochs_replace_the_other_of_a_lower_layer() -> None:
    steps = {"training": {"maxSteps": 10}}
    written = resolve(merged(ALPACA, steps), DEFAULTS).spec.training
    assert (written.epochs, written.max_steps) == (None, 10)
    default = resolve(ALPACA, effective_defaults(steps)).spec.training
    assert (default.epochs, default.max_steps) == (None, 10)
    back = resolve(merged(ALPACA, {"training": {"epochs": 2}}), effective_defaults(steps))
    assert (back.spec.training.epochs, back.spec.training.max_steps) == (2.0, None)


def test_job_config_has_either_epochs_or_max_steps() -> None:
    for spec in ({}, {"training": {"maxSteps": 10}}, {"training": {"epochs": 1}}):
        resolved = resolve(merged(ALPACA, spec), DEFAULTS)
        job = JobConfig(
            namespace="team",
            name="demo",
            revision=resolved.revision,
            digest=resolved.digest,
            model=resolved.spec.model,
            dataset=resolved.spec.common_dataset,
            training=resolved.spec.training,
            evaluation_dataset=resolved.spec.evaluation.dataset,
        )
        read = JobConfig.model_validate_json(job.model_dump_json())
        assert (read.training.epochs is None) != (read.training.max_steps is None)
        assert read == job


def test_node_selector_of_the_chart_defaults_is_replaced_or_dropped_for_a_queue() -> None:
    defaults = effective_defaults({"placement": {"nodeSelector": {"gpu": "a10g"}, "zones": ["a"]}})
    assert resolve(ALPACA, defaults).spec.placement.node_selector == {"gpu": "a10g"}
    own = resolve(merged(ALPACA, {"placement": {"nodeSelector": {"pool": "x"}}}), defaults)
    assert own.spec.placement.node_selector == {"pool": "x"}
    assert own.spec.placement.zones == ["a"]
    queued = resolve(merged(ALPACA, {"queueName": "team"}), defaults)
    assert queued.spec.placement.node_selector is None


def test_chart_default_for_another_format_is_ignored() -> None:
    """Otherwise a default that suits most jobs would make all others invalid."""
    defaults = effective_defaults(
        {
            "dataset": {"promptTemplate": "alpaca", "tokenSecretRef": {"name": "hf"}},
            "training": {"trainOn": "responses"},
        }
    )
    text = resolve(_dataset("text"), defaults).spec
    assert (text.common_dataset.prompt_template, text.training.train_on) == ("auto", "all")
    rows = resolve(_dataset("alpaca", source="configmap://rows/rows.jsonl"), defaults).spec
    assert rows.common_dataset.token_secret_ref is None
    assert rows.common_dataset.prompt_template == "alpaca"
    hub = resolve(_dataset("alpaca"), defaults).spec
    assert hub.common_dataset.token_secret_ref is not None


@pytest.mark.parametrize("name", ["evalSteps", "earlyStoppingPatience"])
def test_user_decides_between_held_out_rows_and_fields_that_need_them(name: str) -> None:
    asks = {"training": {"advanced": {name: 3}}}
    none = {"dataset": {"validationFraction": 0}}
    found = resolve(merged(ALPACA, none), effective_defaults(asks))
    assert _names(found) == _names(resolve(merged(ALPACA, none), DEFAULTS))
    found = resolve(merged(ALPACA, asks), effective_defaults(none))
    assert _names(found) == _names(resolve(merged(ALPACA, asks), DEFAULTS))
    with pytest.raises(InvalidSpec, match=f"{name} .*validationFraction is 0"):
        resolve(merged(ALPACA, merged(asks, none)), DEFAULTS)
    kept = resolve(EVALUATED, effective_defaults(asks)).spec
    assert kept.training.advanced.model_dump(by_alias=True)[name] == 3


@pytest.mark.parametrize(
    ("field", "names"),
    [
        ("targetModules", ["q_proj", "v_proj", "fc1", "fc2"]),
        ("targetModules", DEFAULTS["training"]["lora"]["targetModules"]),
        ("modulesToSave", ["embed_tokens", "lm_head"]),
    ],
    ids=["targetModules-own", "targetModules-built-in", "modulesToSave"],
)
def test_order_of_modules_changes_no_hash(field: str, names: list[str]) -> None:
    def of(written: list[str]) -> tuple[str, str, str]:
        spec = merged(ALPACA, {"training": {"lora": {field: written}}})
        return _names(resolve(spec, DEFAULTS))

    assert of(names) == of(names[::-1])
    assert of(names) != of(names[:1])
    assert (of(names) == _names(resolve(ALPACA, DEFAULTS))) == (len(names) == 7)
    with pytest.raises(
        InvalidSpec, match=f"{field} contains the same name twice: remove the duplicate"
    ):
        of([*names[:1], *names[:1]])


def test_default_columns_and_split_apply_only_to_datasets_that_have_them() -> None:
    rows = {"split": "tuning", "columns": {"instruction": "question"}}
    defaults = effective_defaults({"dataset": rows})
    found = resolve(ALPACA, defaults).spec.common_dataset
    assert (found.split, found.columns.instruction) == ("tuning", "question")
    for spec in (
        _dataset("messages", split="train"),
        _dataset("messages", source="configmap://rows/rows.jsonl"),
    ):
        assert _names(resolve(spec, defaults)) == _names(resolve(spec, DEFAULTS))
    with pytest.raises(InvalidSpec, match=r"use only columns\.messages"):
        resolve(_dataset("messages", columns={"instruction": "question"}), defaults)
    with pytest.raises(InvalidSpec, match="a ConfigMap has no splits"):
        resolve(_dataset("text", source="configmap://rows/a.jsonl", split="test"), defaults)
    other = effective_defaults(
        {"dataset": {"source": "hf://acme/rows", "format": "alpaca", **rows}}
    )
    assert _names(resolve(ALPACA, other)) == _names(resolve(ALPACA, DEFAULTS))


def test_default_revision_of_a_model_applies_only_to_this_model() -> None:
    default = {"source": "hf://acme/base", "revision": "v2"}
    defaults = effective_defaults({"model": default})
    same, other = (
        resolve(merged(ALPACA, {"model": {"source": source}}), defaults).spec.model
        for source in (default["source"], "hf://acme/other")
    )
    assert (same.revision, other.revision) == ("v2", "main")
    for_all = effective_defaults({"model": {"revision": "v2"}})
    assert resolve(ALPACA, for_all).spec.model.revision == "v2"


def test_job_with_an_evaluation_dataset_holds_out_no_rows() -> None:
    found = resolve(EVALUATED, effective_defaults({"dataset": {"validationFraction": 0.1}})).spec
    assert found.common_dataset.validation_fraction == 0
    assert found.evaluation.dataset is not None
    assert (found.evaluation.dataset.split, found.evaluation.dataset.revision) == ("train", "main")


def test_changing_the_evaluation_dataset_changes_the_revision() -> None:
    """The train pod computes the reference on it at the end of training."""
    first, second = (resolve(spec, DEFAULTS) for spec in (ALPACA, EVALUATED))
    third = resolve(_evaluated("alpaca", split="test"), DEFAULTS)
    assert len({first.revision, second.revision, third.revision}) == 3
    text = merged(EVALUATED, {"dataset": {"format": "text"}})
    with pytest.raises(InvalidSpec, match="set format: text in both dataset and evaluation"):
        resolve(text, DEFAULTS)


def test_default_evaluation_dataset_applies_only_to_suitable_jobs() -> None:
    company = {"source": "hf://acme/questions", "format": "alpaca", "split": "test"}
    defaults = effective_defaults({"evaluation": {"dataset": company}})
    own = merged(ALPACA, {"dataset": {"validationFraction": 0.1}})
    asked = {
        name: resolve(spec, defaults).spec
        for name, spec in (("any", ALPACA), ("text", _dataset("text")), ("own", own))
    }
    assert {name: spec.evaluation.dataset is not None for name, spec in asked.items()} == {
        "any": True,
        "text": False,
        "own": False,
    }
    assert asked["own"].common_dataset.validation_fraction == 0.1
    same = resolve(merged(ALPACA, {"dataset": company}), defaults).spec
    assert same.evaluation.dataset is None, "it is trained on"
    token = effective_defaults({"evaluation": {"dataset": {"tokenSecretRef": {"name": "hf"}}}})
    assert resolve(ALPACA, token).spec.evaluation.dataset is None
    found = resolve(EVALUATED, token).spec.evaluation.dataset
    assert found is not None
    assert found.token_secret_ref is not None


@pytest.mark.parametrize(
    "own",
    [
        {"source": "hf://org/test", "format": "alpaca"},
        {"source": "hf://org/test", "format": "messages"},
        {"source": "configmap://rows/test.jsonl", "format": "alpaca"},
    ],
    ids=lambda own: f"{own['source']} {own['format']}",
)
def test_fields_of_a_default_dataset_do_not_apply_to_another_dataset(own: Spec) -> None:
    company = {
        "source": "hf://acme/questions",
        "format": "alpaca",
        "split": "test",
        "revision": "v1",
        "columns": {"instruction": "question"},
        "maxSamples": 100,
        "tokenSecretRef": {"name": "acme"},
    }
    defaults = effective_defaults({"evaluation": {"dataset": company}})
    spec = merged(ALPACA, {"evaluation": {"dataset": own}})
    assert _names(resolve(spec, defaults)) == _names(resolve(spec, DEFAULTS))
    named = {name: company[name] for name in ("source", "format")}
    same = resolve(merged(ALPACA, {"evaluation": {"dataset": named}}), defaults)
    assert _names(same) == _names(resolve(ALPACA, defaults))


@pytest.mark.parametrize(
    ("chart_defaults", "message"),
    [
        ({"evaluation": {"dataset": {"split": "a b"}}}, "defaults.evaluation.dataset.*single name"),
        (
            {"evaluation": {"dataset": {"split": "train", "columns": {"answer": "a"}}}},
            "defaults.evaluation.dataset.columns.answer: unknown field; remove it",
        ),
        (
            {"training": {"max_steps": 16}},
            "defaults.training.max_steps: unknown field; remove it",
        ),
        (
            {"training": {"lora": {"rank": 16}}},
            "defaults.training.lora.rank: unknown field; remove it",
        ),
        ({"training": {"lora": {"r": 0}}}, r"defaults.training.lora.r: .*\(it is 0\)"),
        ({"training": {"epochs": 1, "maxSteps": 5}}, "maxSteps and epochs are mutually exclusive"),
        ({"merge": {"enabled": False}}, "serving needs the merged model"),
        ({"storage": {"size": "60GB"}}, "write a quantity such as"),
        ({"placement": ["zone"]}, "defaults.placement: "),
    ],
    ids=[
        "split-with-space",
        "unknown-column",
        "name-in-snake-case",
        "unknown-field",
        "value-out-of-bounds",
        "epochs-and-maxSteps",
        "serving-without-merge",
        "quantity-in-GB",
        "list-for-a-group",
    ],
)
def test_chart_defaults_that_no_job_could_have_are_rejected(
    chart_defaults: Spec, message: str
) -> None:
    with pytest.raises(InvalidSpec, match=message):
        effective_defaults(chart_defaults)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def _refusal(call: Callable[[], object]) -> str | None:
    try:
        call()
    except InvalidSpec as refusal:
        return str(refusal)
    return None


@given(
    path=st.sampled_from([leaf.path[:depth] for leaf in LEAVES for depth in (1, 2, 3, 4)]),
    value=JSON,
    queue=st.booleans(),
)
@example(path=("placement",), value=5, queue=True)
@example(path=("placement",), value="nodes", queue=True)
@example(path=("training",), value=[], queue=False)
@example(path=("dataset", "source"), value={}, queue=False)
@example(path=("dataset", "columns"), value={"input": {}}, queue=False)
@example(path=("dataset", "format"), value=[], queue=False)
@example(path=("dataset", "mapping"), value=True, queue=False)
@example(path=("evaluation", "dataset", "mapping"), value=5, queue=False)
@example(path=("evaluation", "dataset"), value=5, queue=False)
def test_any_spec_resolves_or_raises_invalid_spec(
    path: tuple[str, ...], value: object, queue: bool
) -> None:
    spec = merged(merged(ALPACA, {"queueName": "team"} if queue else {}), nested(path, value))
    said = _refusal(lambda: resolve(spec, DEFAULTS))
    assert said is None or said.startswith("spec")
    said = _refusal(lambda: effective_defaults(spec))
    assert said is None or said.startswith("defaults")


def test_resolve_does_not_modify_its_arguments() -> None:
    spec = merged(ALPACA, {"training": {"maxSteps": 3}, "queueName": "team"})
    defaults = effective_defaults({"placement": {"nodeSelector": {"a": "b"}}})
    before = copy.deepcopy((spec, defaults))
    resolve(spec, defaults)
    assert (spec, defaults) == before


@pytest.mark.parametrize(
    "source", ["hf://org/data", "pvc://claim/rows", "configmap://rows/a.jsonl", "s3://bucket/rows"]
)
def test_default_access_applies_only_to_its_kind_of_source(source: str) -> None:
    """A default S3 endpoint or CA bundle must not make jobs invalid that do not need it."""
    store = {"endpoint": "https://minio:9000", "secretRef": {"name": "keys"}}
    dataset = {"s3": store, "caConfigMapRef": {"name": "ca"}, "tokenSecretRef": {"name": "hf"}}
    defaults = effective_defaults({"dataset": dataset})
    found = resolve(merged(ALPACA, {"dataset": {"source": source}}), defaults).spec.common_dataset
    assert (found.s3.endpoint is not None) == source.startswith("s3://")
    assert (found.ca_config_map_ref is not None) == source.startswith(("hf://", "s3://"))
    assert (found.token_secret_ref is not None) == source.startswith("hf://")
    assert (found.revision == "main") == source.startswith("hf://")


def test_written_prompt_replaces_the_prompt_of_the_chart_defaults() -> None:
    defaults = effective_defaults({"dataset": {"chatTemplate": "{{ messages }}"}})
    spec = merged(ALPACA, {"dataset": {"promptFormat": "Q: {prompt}"}})
    found = resolve(spec, defaults).spec.common_dataset
    assert (found.chat_template, found.prompt_format) == (None, "Q: {prompt}")
    assert resolve(_dataset("text"), defaults).spec.common_dataset.chat_template is None
    assert resolve(_dataset("messages"), defaults).spec.common_dataset.chat_template is not None


@pytest.mark.parametrize("format_", ["auto", "messages", "sharegpt"])
def test_conversations_have_no_prompt_format(format_: str) -> None:
    defaults = effective_defaults({"dataset": {"promptFormat": "Q: {prompt}"}})
    assert resolve(_dataset("prompt-completion"), defaults).spec.common_dataset.prompt_format
    assert resolve(_dataset(format_), defaults).spec.common_dataset.prompt_format is None


def test_field_in_snake_case_is_unknown() -> None:
    with pytest.raises(UnknownField, match=r"spec\.training\.max_steps: unknown field"):
        resolve(merged(ALPACA, {"training": {"max_steps": 5}}), DEFAULTS)
