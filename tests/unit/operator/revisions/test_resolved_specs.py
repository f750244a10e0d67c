"""Which resolved specs are remembered."""

import pytest
from tests.fakes.apiserver import SPEC

from finetune_api.base import Values
from finetune_api.defaulting import InvalidSpec, builtin_defaults, resolve
from finetune_operator.revisions import resolved_specs
from finetune_operator.revisions.resolved_specs import RESOLVED_BYTES, ResolvedSpecs


def test_equal_specs_share_a_result_and_others_do_not() -> None:
    specs, defaults = ResolvedSpecs(), builtin_defaults()
    first = specs.resolve(SPEC, defaults)
    assert specs.resolve({**SPEC}, defaults) is first
    edited = specs.resolve({**SPEC, "rerun": "a"}, defaults)
    assert edited.revision != first.revision
    others = specs.resolve(SPEC, {**defaults, "training": {**defaults["training"], "seed": 7}})
    assert others.spec.training.seed == 7
    assert specs.resolve(SPEC, defaults) is first
    for _ in range(2):
        with pytest.raises(InvalidSpec):
            specs.resolve({**SPEC, "unknown": True}, defaults)


def test_results_share_equal_groups_and_stay_what_they_were() -> None:
    specs, defaults = ResolvedSpecs(), builtin_defaults()
    given = {**SPEC, "training": {"seed": 1}}
    first, other = (
        specs.resolve({**SPEC, "training": {"seed": seed}}, defaults) for seed in (1, 2)
    )
    assert first.spec.serving is other.spec.serving
    assert first.spec.training.advanced is other.spec.training.advanced
    assert first.spec.training.model_fields_set is other.spec.training.model_fields_set
    assert (first.spec.training.seed, other.spec.training.seed) == (1, 2)
    again = resolve(given, defaults)
    assert vars(first) == vars(again)
    assert first.spec.model_dump(exclude_unset=True) == again.spec.model_dump(exclude_unset=True)


def test_the_specs_that_were_not_used_for_longest_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resolved_specs, "REMEMBERED_BYTES", 3 * RESOLVED_BYTES)
    specs, defaults = ResolvedSpecs(), builtin_defaults()
    first = specs.resolve({**SPEC, "rerun": "1"}, defaults)
    second = specs.resolve({**SPEC, "rerun": "2"}, defaults)
    assert specs.resolve({**SPEC, "rerun": "1"}, defaults) is first
    specs.resolve({**SPEC, "rerun": "3"}, defaults)
    assert specs.resolve({**SPEC, "rerun": "1"}, defaults) is first
    assert specs.resolve({**SPEC, "rerun": "2"}, defaults) is not second


def test_a_large_spec_counts_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolved_specs, "REMEMBERED_BYTES", 3 * RESOLVED_BYTES)
    specs, defaults = ResolvedSpecs(), builtin_defaults()
    small = specs.resolve(SPEC, defaults)
    template = {"chatTemplate": "x" * (2 * RESOLVED_BYTES)}
    specs.resolve({**SPEC, "dataset": {**SPEC["dataset"], **template}}, defaults)
    assert specs.resolve(SPEC, defaults) is not small


def test_a_spec_counts_with_the_bytes_of_its_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    """A character outside the basic plane makes each character of its text take four bytes."""
    monkeypatch.setattr(resolved_specs, "REMEMBERED_BYTES", 5 * RESOLVED_BYTES)
    specs, defaults = ResolvedSpecs(), builtin_defaults()
    small = specs.resolve(SPEC, defaults)

    def with_template(character: str) -> Values:
        template = {"chatTemplate": character * (RESOLVED_BYTES // 2)}
        return {**SPEC, "dataset": {**SPEC["dataset"], **template}}

    specs.resolve(with_template("x"), defaults)
    assert specs.resolve(SPEC, defaults) is small
    specs.resolve(with_template("\U0001f600"), defaults)
    assert specs.resolve(SPEC, defaults) is not small
