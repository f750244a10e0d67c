"""Which budgets select a namespace, by its labels."""

from collections.abc import Mapping

from finetune_api.v1alpha1.budgets.spec import LabelExpression, NamespaceSelector

NAME_LABEL = "kubernetes.io/metadata.name"
"""Label of every namespace, which the API server sets and nobody can change."""


def selects(selector: NamespaceSelector, name: str, labels: Mapping[str, str] | None) -> bool:
    """Report whether a selector selects a namespace. labels: None if it does not exist."""
    present = {**(labels or {}), NAME_LABEL: name}
    wanted = (selector.match_labels or {}).items()
    return all(present.get(key) == value for key, value in wanted) and all(
        _holds(expression, present) for expression in selector.match_expressions or ()
    )


def _holds(expression: LabelExpression, labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression.key), expression.values or ()
    if expression.operator == "Exists":
        return value is not None
    if expression.operator == "DoesNotExist":
        return value is None
    return (value in values) is (expression.operator == "In")
