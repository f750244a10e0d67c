"""Layers of values: read and replace values at a path without modifying the arguments."""

import copy

import pytest

from finetune_api.base import Values
from finetune_api.layering import (
    Path,
    builtin_values,
    has,
    layered,
    value_at,
    with_value,
    without,
    without_nulls,
)
from finetune_api.v1alpha1.storage import Storage

VALUES: Values = {"a": {"b": {"c": 1}, "d": None}, "e": 5}


@pytest.mark.parametrize(
    ("path", "value"),
    [(("a", "b", "c"), 1), (("a", "b"), {"c": 1}), (("a", "d"), None), (("e", "f"), None)],
    ids=["value", "group", "null", "below-a-value"],
)
def test_value_at_a_path(path: Path, value: object) -> None:
    assert value_at(VALUES, path) == value
    assert has(VALUES, *path) is (value is not None)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (("a", "b", "c"), {"a": {"b": {"c": 9}, "d": None}, "e": 5}),
        (("a", "new"), {"a": {"b": {"c": 1}, "d": None, "new": 9}, "e": 5}),
        (("new",), {**VALUES, "new": 9}),
        (("missing", "new"), VALUES),
        (("e", "new"), VALUES),
    ],
    ids=["replaced", "added", "added-at-the-top", "group-missing", "group-is-a-value"],
)
def test_with_value_returns_new_values(path: Path, expected: Values) -> None:
    before = copy.deepcopy(VALUES)
    assert with_value(VALUES, path, 9) == expected
    assert before == VALUES


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ([("a", "b", "c")], {"a": {"b": {}, "d": None}, "e": 5}),
        ([("e",), ("a", "d")], {"a": {"b": {"c": 1}}}),
        ([("missing", "x"), ("e", "x"), ("a", "x")], VALUES),
        ([], VALUES),
    ],
    ids=["nested", "several", "missing", "none"],
)
def test_without_returns_new_values(paths: list[Path], expected: Values) -> None:
    before = copy.deepcopy(VALUES)
    assert without(VALUES, *paths) == expected
    assert before == VALUES


def test_nulls_are_removed_at_every_level() -> None:
    assert without_nulls({"a": None, "b": {"c": None, "d": 0}}) == {"b": {"d": 0}}


def test_atomic_group_is_replaced_as_a_whole() -> None:
    """Storage is layered field by field; storage.baseCache is atomic."""
    lower = {"size": "60Gi", "baseCache": {"claimName": "a", "subPath": "hub"}}
    upper = {"accessMode": "ReadWriteMany", "baseCache": {"claimName": "b"}}
    assert layered(Storage, lower, upper) == {
        "size": "60Gi",
        "accessMode": "ReadWriteMany",
        "baseCache": {"claimName": "b"},
    }


def test_built_in_values_omit_fields_without_a_default() -> None:
    assert builtin_values(Storage) == {
        "size": "60Gi",
        "accessMode": "ReadWriteOnce",
        "deletionPolicy": "Delete",
    }
