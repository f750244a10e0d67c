"""Bring ``dataset`` and ``datasets`` of a spec into one form: one spec for each dataset. Pure.

Each dataset is completed with defaults as if the job had only this one. A list with one dataset of
weight 1 equals ``dataset``. A longer list is sorted by name, and its first dataset carries the
fields that apply to all of them, wherever they are written. Both keep the hash of a revision
independent of the notation.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_api.base import Values
from finetune_api.layering import without_nulls
from finetune_api.v1alpha1.data.dataset import COMMON_FIELDS

OWN = ("name", "weight")
"""Fields of an entry of ``datasets`` that ``dataset`` does not have."""


def single(written: Values) -> Values:
    """Return a spec with ``dataset`` in place of a list of one dataset of weight 1."""
    entries = _entries(written)
    if len(entries) != 1 or entries[0].get("weight", 1) != 1:
        return written
    return _with_dataset(written, _without(OWN, entries[0]))


def one_by_one(written: Values) -> list[Values]:
    """Return the spec for each dataset, which is its ``dataset``, with the common fields of all.

    The entries of a list keep their names and weights. A spec without a list, or with an invalid
    one, is returned as it is.
    """
    written = single(written)
    entries = sorted(_entries(written), key=lambda entry: str(entry["name"]))
    common: Values = {}
    for entry in entries:
        own = {key: value for key, value in entry.items() if key in COMMON_FIELDS}
        if common.keys() & own.keys():
            # The rule of datasets rejects it.
            return [written]
        common |= own
    return [_with_dataset(written, entry | common) for entry in entries] or [written]


def combined(specs: Sequence[Values]) -> Values:
    """Return the completed specs of ``one_by_one`` as one spec."""
    datasets = [
        {"weight": 1.0, **dataset}
        for spec in specs
        if isinstance(dataset := spec.get("dataset"), Mapping) and "name" in dataset
    ]
    if len(datasets) < len(specs):
        return specs[0]
    first, *others = datasets
    listed = [first, *(_without(COMMON_FIELDS, other) for other in others)]
    return {**_without(("dataset",), specs[0]), "datasets": listed}


def _entries(written: Mapping[str, Any]) -> list[Values]:
    """Return the entries of ``datasets``; none if ``dataset`` is set or the list is invalid."""
    datasets = written.get("datasets")
    if not isinstance(datasets, list) or "dataset" in written:
        return []
    if not all(
        isinstance(entry, Mapping) and isinstance(entry.get("name"), str) for entry in datasets
    ):
        return []
    return [without_nulls(dataset) for dataset in datasets]


def _with_dataset(written: Values, dataset: Values) -> Values:
    return {**_without(("datasets",), written), "dataset": dataset}


def _without(fields: Sequence[str], values: Values) -> Values:
    return {key: value for key, value in values.items() if key not in fields}
