"""One dataset and a list of datasets: equal hashes for equal data, clear errors for the rest."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.leaves import ALPACA, merged

from finetune_api.defaulting import (
    InvalidSpec,
    Resolved,
    builtin_defaults,
    effective_defaults,
    resolve,
)
from finetune_api.v1alpha1.sources import prefix_of

ROWS = ALPACA["dataset"]
MORE = {"source": "hf://org/more", "format": "messages"}


def listed(*datasets: Any, **spec: Any) -> Resolved:
    defaults = effective_defaults(spec.pop("defaults", {}))
    return resolve({"model": ALPACA["model"], "datasets": list(datasets), **spec}, defaults)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"columns": {"output": "answer"}, "split": "train"},
        {"validationFraction": 0.1, "chatTemplate": "{{ messages }}"},
        {"tokenSecretRef": {"name": "hf"}},
    ],
)
@pytest.mark.parametrize("weight", [{}, {"weight": 1}, {"weight": None}])
def test_list_of_one_equals_a_dataset(fields: dict[str, Any], weight: dict[str, Any]) -> None:
    one = listed({"name": "a", **ROWS, **fields, **weight})
    same = resolve(merged(ALPACA, {"dataset": fields}), builtin_defaults())
    assert (one.spec, one.digest, one.build_digest, one.retry_key) == (
        same.spec,
        same.digest,
        same.build_digest,
        same.retry_key,
    )


def test_notation_does_not_change_the_hash() -> None:
    first, second = {"name": "a", **ROWS}, {"name": "b", **MORE}
    found = listed(first, second).digest
    assert listed(second, first).digest == found
    assert listed({**first, "split": "train", "weight": 1}, second).digest == found
    assert listed(first, {**second, "split": "train", "weight": 1.0}).digest == found
    assert listed(first, {**second, "columns": {"messages": "messages"}}).digest == found
    common = {"validationFraction": 0.2}
    assert listed({**first, **common}, second).digest == listed(first, {**second, **common}).digest


@pytest.mark.parametrize(
    "change", [{"weight": 2}, {"split": "test"}, {"source": "hf://org/x"}, {"name": "c"}]
)
def test_change_of_one_dataset_is_a_change(change: dict[str, Any]) -> None:
    first, second = {"name": "a", **ROWS}, {"name": "b", **MORE}
    assert listed(first, {**second, **change}).digest != listed(first, second).digest


def test_secret_of_one_dataset_is_a_retry() -> None:
    first, second = {"name": "a", **ROWS}, {"name": "b", **MORE}
    before = listed(first, second)
    after = listed(first, {**second, "tokenSecretRef": {"name": "hf"}})
    assert (before.digest, before.retry_key != after.retry_key) == (after.digest, True)


def test_defaults_of_dataset_apply_to_each() -> None:
    found = listed(
        {"name": "a", **ROWS},
        {"name": "b", **MORE},
        defaults={"dataset": {"maxSamples": 7, "duplicates": "drop"}},
    ).spec
    assert found.datasets is not None
    assert [each.max_samples for each in found.datasets] == [7, 7]
    assert [each.revision for each in found.datasets] == ["main", "main"]
    assert found.common_dataset.duplicates == "drop"
    assert list(found.rows_of_training) == ["datasets[a]", "datasets[b]"]


NAMES = st.from_regex(r"[ab]([-ab]{0,5}[ab])?", fullmatch=True)


@given(names=st.sets(NAMES, min_size=2, max_size=3))
def test_variables_of_one_job_have_different_prefixes(names: set[str]) -> None:
    """With the same prefix, a dataset would send the credentials of another one to its server."""
    try:
        spec = listed(*({"name": name, **ROWS} for name in names)).spec
    except InvalidSpec:
        assert len({"-".join(filter(None, name.split("-"))) for name in names}) < len(names)
        return
    kinds = ["model", *spec.rows_of_training, "evaluation.dataset"]
    assert len({prefix_of(kind) for kind in kinds}) == len(kinds)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({**ALPACA, "datasets": [{"name": "a", **ROWS}]}, "set exactly one of dataset"),
        ({"model": ALPACA["model"]}, "set exactly one of dataset"),
        (
            {
                "model": ALPACA["model"],
                "datasets": [{"name": "a", **ROWS}, {"name": "a", **MORE}],
            },
            "two datasets have the same name",
        ),
        (
            {
                "model": ALPACA["model"],
                "datasets": [
                    {"name": "a-b", **ROWS, "tokenSecretRef": {"name": "own"}},
                    {"name": "a--b", **MORE},
                ],
            },
            "differ only in the number of consecutive '-'",
        ),
        (
            {
                "model": ALPACA["model"],
                "datasets": [
                    {"name": "a", **ROWS, "chatTemplate": "x"},
                    {"name": "b", **MORE, "chatTemplate": "y"},
                ],
            },
            "apply to all datasets: set each of these fields in at most one dataset",
        ),
        (
            {"model": ALPACA["model"], "datasets": [{"name": "A", **ROWS}, {"name": "b", **MORE}]},
            "write the name of a dataset with lower-case letters",
        ),
        (
            {
                "model": ALPACA["model"],
                "datasets": [{"name": "a", **ROWS}, {"name": "b", **MORE, "weight": 0}],
            },
            "set weight to a value from 0.001 to 100",
        ),
    ],
)
def test_invalid_lists_are_rejected(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidSpec, match=said):
        resolve(spec, builtin_defaults())


def test_errors_about_a_list_of_one_dataset_name_the_list() -> None:
    spec = {"model": ALPACA["model"], "datasets": [{"name": "a", **ROWS, "split": "a b"}]}
    with pytest.raises(InvalidSpec, match=r"^spec\.datasets\.0: write split as a single"):
        resolve(spec, builtin_defaults())
