"""Bring ``dataset`` and ``datasets`` of a spec into one form. Pure.

A list with one dataset of weight 1 equals ``dataset``. A longer list is sorted by name, and its
first dataset carries the fields that apply to all of them, wherever they are written. Both keep the
hash of a revision independent of the notation.
"""

from collections.abc import Mapping
from typing import Any

from finetune_api.base import Values
from finetune_api.fitting import fit_columns, fit_sources, without_foreign_content
from finetune_api.layering import layered, value_at, without_nulls
from finetune_api.v1alpha1.dataset import COMMON_FIELDS, Dataset

OWN = ("name", "weight")
"""Fields of an entry of ``datasets`` that ``dataset`` does not have."""


def single(written: Values) -> Values:
    """Return a spec with ``dataset`` in place of a list of one dataset of weight 1."""
    entries = _entries(written)
    if len(entries) != 1 or entries[0].get("weight", 1) != 1:
        return written
    others = {key: value for key, value in written.items() if key != "datasets"}
    return {**others, "dataset": _without_own(entries[0])}


def separated(written: Values) -> tuple[Values, list[Values]]:
    """Return a spec with ``dataset`` in place of ``datasets``, and the entries of the list.

    Without a list, or with an invalid one, the spec is returned unchanged, with no entries.
    """
    written = single(written)
    entries = sorted(_entries(written), key=lambda entry: str(entry["name"]))
    if not entries:
        return written, []
    common: Values = {}
    for entry in entries:
        own = {key: value for key, value in entry.items() if key in COMMON_FIELDS}
        if common.keys() & own.keys():
            # The rule of datasets rejects it.
            return written, []
        common |= own
    others = {key: value for key, value in written.items() if key != "datasets"}
    return {**others, "dataset": {**_rows(entries[0]), **common}}, entries


def combined(values: Values, entries: list[Values], lower: Values) -> Values:
    """Return completed values with the list in place of ``dataset``. lower: all defaults."""
    if not entries:
        return values
    completed = [dict(values["dataset"]), *(_completed(each, lower) for each in entries[1:])]
    named = [
        {**rows, "name": entry["name"], "weight": entry.get("weight", 1.0)}
        for rows, entry in zip(completed, entries, strict=True)
    ]
    others = {key: value for key, value in values.items() if key != "dataset"}
    return {**others, "datasets": named}


def _completed(entry: Values, lower: Values) -> Values:
    """Return the fields of one entry with the defaults of ``dataset``."""
    written = {"dataset": _rows(entry)}
    below = without_foreign_content(lower, written)
    rows = layered(Dataset, _rows(value_at(below, ("dataset",)) or {}), written["dataset"])
    values = fit_columns(fit_sources({"dataset": rows}, written), written)
    return dict(values["dataset"])


def _entries(written: Mapping[str, Any]) -> list[Values]:
    """Return the entries of ``datasets``; none if ``dataset`` is set or the list is invalid."""
    datasets = written.get("datasets")
    if not isinstance(datasets, list) or "dataset" in written:
        return []
    if not all(
        isinstance(each, Mapping) and isinstance(each.get("name"), str) for each in datasets
    ):
        return []
    return [without_nulls(dataset) for dataset in datasets]


def _rows(values: Mapping[str, Any]) -> Values:
    return {key: value for key, value in values.items() if key not in (*COMMON_FIELDS, *OWN)}


def _without_own(entry: Values) -> Values:
    return {key: value for key, value in entry.items() if key not in OWN}
