"""Label selectors of namespaces mean what they mean in Kubernetes."""

from typing import Any

import pytest

from finetune_api.v1alpha1.budgets.spec import NamespaceSelector
from finetune_operator.budgets.selection import selects

LABELS = {"team": "vision", "tier": "gold"}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({}, True),
        ({"matchLabels": {"team": "vision"}}, True),
        ({"matchLabels": {"team": "vision", "tier": "silver"}}, False),
        ({"matchLabels": {"kubernetes.io/metadata.name": "team-a"}}, True),
        (
            {"matchExpressions": [{"key": "team", "operator": "In", "values": ["x", "vision"]}]},
            True,
        ),
        ({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["vision"]}]}, False),
        ({"matchExpressions": [{"key": "absent", "operator": "NotIn", "values": ["x"]}]}, True),
        ({"matchExpressions": [{"key": "absent", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "absent", "operator": "DoesNotExist"}]}, True),
    ],
)
def test_selection(selector: dict[str, Any], expected: bool) -> None:
    parsed = NamespaceSelector.model_validate(selector, by_name=False)
    assert selects(parsed, "team-a", LABELS) is expected


def test_a_namespace_cannot_have_the_name_of_another_by_a_label() -> None:
    """Security: who may label a namespace must not be able to charge another team's budget."""
    parsed = NamespaceSelector(match_labels={"kubernetes.io/metadata.name": "team-a"})
    assert not selects(parsed, "mine", {"kubernetes.io/metadata.name": "team-a"})
