"""Constructors of rules: their CEL, and the decision of their Python side."""

import pytest

from finetune_api.rules import (
    Rule,
    Statement,
    between,
    each_matches,
    equals,
    excludes,
    is_set,
    labels,
    lacks,
    matches,
    requires,
    starts_with,
    unique,
)
from finetune_api.v1alpha1.training.training import Training

MESSAGE = "set another value"
WRITTEN = Training.model_validate({"maxSteps": 5, "epochs": None, "lora": {"useDora": True}})


@pytest.mark.parametrize(
    ("statement", "cel", "holds"),
    [
        (is_set("maxSteps"), "(has(self.maxSteps))", True),
        (is_set("lora.useDora"), "(has(self.lora) && has(self.lora.useDora))", True),
        (is_set("epochs"), "(has(self.epochs))", False),
        (is_set("seed"), "(has(self.seed))", False),
        (
            is_set("advanced.evalSteps"),
            "(has(self.advanced) && has(self.advanced.evalSteps))",
            False,
        ),
        (equals("packing", "auto"), "(has(self.packing) && self.packing == 'auto')", True),
        (
            equals("lora.useDora", False),
            "(has(self.lora) && has(self.lora.useDora) && self.lora.useDora == false)",
            False,
        ),
        (equals("maxSteps", 5.0), "(has(self.maxSteps) && self.maxSteps == 5.0)", True),
        (
            starts_with("packing", "al", "au"),
            "(self.packing.startsWith('al') || self.packing.startsWith('au'))",
            True,
        ),
        (
            is_set("epochs") | ~is_set("seed"),
            "((has(self.epochs)) || !((has(self.seed))))",
            True,
        ),
        (
            is_set("maxSteps") & is_set("seed"),
            "((has(self.maxSteps)) && (has(self.seed)))",
            False,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_statement_in_cel_and_python(statement: Statement, cel: str, holds: bool) -> None:
    """A default counts for ``equals``, but not for ``is_set``."""
    assert statement.cel == cel
    assert statement.holds(WRITTEN) is holds


def test_condition_on_an_unknown_field_raises_an_error() -> None:
    with pytest.raises(LookupError, match="Lora has no field rank"):
        is_set("lora.rank").holds(WRITTEN)


@pytest.mark.parametrize(
    ("rule", "cel", "fails"),
    [
        (
            excludes(is_set("maxSteps"), is_set("epochs"), MESSAGE),
            "!((has(self.maxSteps)) && (has(self.epochs)))",
            False,
        ),
        (
            excludes(is_set("maxSteps"), is_set("lora"), MESSAGE),
            "!((has(self.maxSteps)) && (has(self.lora)))",
            True,
        ),
        (
            requires(is_set("maxSteps"), is_set("epochs"), MESSAGE),
            "!(has(self.maxSteps)) || (has(self.epochs))",
            True,
        ),
        (
            requires(is_set("epochs"), is_set("maxSteps"), MESSAGE),
            "!(has(self.epochs)) || (has(self.maxSteps))",
            False,
        ),
    ],
    ids=["excludes-one-set", "excludes-both-set", "requires-missing", "requires-not-triggered"],
)
def test_rule_of_two_conditions(rule: Rule, cel: str, fails: bool) -> None:
    assert rule.cel == cel
    assert rule.message == MESSAGE
    assert rule.fails(WRITTEN) is fails


@pytest.mark.parametrize(
    ("rule", "cel", "valid", "invalid"),
    [
        (matches(r"^a\.b'$", MESSAGE), "self.matches('^a\\\\.b\\'$')", "a.b'", "a.b'\n"),
        (lacks("x", MESSAGE), "!('x' in self)", ["y"], ["y", "x"]),
        (between(0.1, 1, MESSAGE), "self >= 0.1 && self <= 1.0", 0.1, 0.09),
        (
            unique("names"),
            "self.all(one, self.exists_one(other, other == one))",
            ["a", "b"],
            ["a", "a"],
        ),
    ],
    ids=["matches", "lacks", "between", "unique"],
)
def test_rule_of_a_value(rule: Rule, cel: str, valid: object, invalid: object) -> None:
    assert rule.cel == cel
    assert not rule.fails(valid)
    assert rule.fails(invalid)
    assert ([*rule.broken(valid)], [*rule.broken(invalid)]) == ([], [()])


def test_rule_of_each_item_names_the_items_that_break_it() -> None:
    rule = each_matches("^[a-c]$", MESSAGE)
    assert (rule.cel, rule.items) == ("self.matches('^[a-c]$')", True)
    assert [*rule.broken(["a", "c"])] == []
    assert [*rule.broken(["d", "a", "a\n"])] == [(0,), (2,)]


@pytest.mark.parametrize(
    ("value", "fails"),
    [
        ({"example.com/team": "a-42", "pool": ""}, False),
        ({"example.com/": "a"}, True),
        ({"team": "a b"}, True),
    ],
    ids=["valid", "key-without-name", "value-with-space"],
)
def test_rule_of_labels(value: dict[str, str], fails: bool) -> None:
    assert labels(MESSAGE).fails(value) is fails
