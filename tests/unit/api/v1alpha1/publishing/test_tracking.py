"""``spec.tracking``: the URL of a server, which limits of the policy are compared with."""

import pytest

from finetune_api.validation import findings


@pytest.mark.parametrize(
    ("uri", "valid"),
    [
        ("https://mlflow.example.com", True),
        ("http://mlflow.ml.svc:5000", True),
        ("https://mlflow.example.com/team-a/~user/v1.2", True),
        ("https://mlflow.example.com/team-a/../team-b", False),
        ("https://mlflow.example.com/team-a/./b", False),
        ("https://mlflow.example.com/..", False),
        ("https://mlflow.example.com/team-a/%2e%2e/team-b", False),
        ("https://mlflow.example.com//team-b", False),
    ],
)
def test_uri_cannot_leave_the_path_that_the_policy_allows(uri: str, valid: bool) -> None:
    spec = {
        "model": {"source": "hf://org/model"},
        "dataset": {"source": "hf://org/data"},
        "tracking": {"mlflow": {"uri": uri}},
    }
    head = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob"}
    found = findings({**head, "metadata": {"name": "demo"}, "spec": spec})
    assert [each.field for each in found] == ([] if valid else ["spec.tracking.mlflow.uri"])
