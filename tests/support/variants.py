"""Parameters of tests with many variants, of which ``make test`` runs some."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def variants(values: Iterable[Any], *, kept: Collection[Any]) -> list[Any]:
    """Return the values for ``parametrize``; all but those in ``kept`` are marked exhaustive.

    A value that is a tuple has one item for each argument of the test. Raises ValueError if a
    kept value is no value, because ``make test`` would then run no variant.
    """
    found = list(values)
    if missing := [each for each in kept if each not in found]:
        raise ValueError(f"kept, but no value: {missing}")
    return [each if each in kept else _marked(each) for each in found]


def _marked(value: Any) -> Any:
    arguments = value if isinstance(value, tuple) else (value,)
    return pytest.param(*arguments, marks=pytest.mark.exhaustive)
