"""Variants of a test: ``make test`` runs those that are kept."""

import pytest
from tests.support.variants import variants


def test_all_but_the_kept_values_are_exhaustive() -> None:
    one, kept, pair = variants(["one", "kept", ("a", 2)], kept=["kept"])
    assert kept == "kept"
    assert (one.values, pair.values) == (("one",), ("a", 2))
    assert [mark.name for each in (one, pair) for mark in each.marks] == ["exhaustive"] * 2


def test_a_kept_value_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no value: \['renamed'\]"):
        variants(["one"], kept=["renamed"])


def test_a_run_without_options_leaves_variants_out(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.getini("addopts")[-2:] == ["-m", "not exhaustive"]
