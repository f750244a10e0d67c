"""The version of a job is that of everything that a reconcile depends on, except for its status."""

from typing import Any

import pytest
from tests.fakes.apiserver import Cluster, copied, merge

from finetune_operator.objects.digest import own_version, sha256

WITHOUT_EFFECT: dict[str, dict[str, Any]] = {
    "status": {"status": {"observedGeneration": 7}},
    "resourceVersion": {"metadata": {"resourceVersion": "999"}},
    "managedFields": {"metadata": {"managedFields": [{"manager": "kubectl"}]}},
    "annotations": {"metadata": {"annotations": {"a": "b"}}},
}
WITH_EFFECT: dict[str, dict[str, Any]] = {
    "spec": {"spec": {"suspend": True}},
    "labels": {"metadata": {"labels": {"a": "b"}}},
    "wake": {"metadata": {"annotations": {"finetune.dev/wake": "2030-01-01T00:00:00Z"}}},
    "deletionTimestamp": {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}},
    "uid": {"metadata": {"uid": "another"}},
}


def changed(changes: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    job = Cluster().present_job()
    other = copied(job)
    merge(other, changes)
    return job, other


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_change_without_effect_keeps_the_version(name: str) -> None:
    job, other = changed(WITHOUT_EFFECT[name])
    assert job != other
    assert own_version(job) == own_version(other)


@pytest.mark.parametrize("name", WITH_EFFECT)
def test_change_with_effect_changes_the_version(name: str) -> None:
    job, other = changed(WITH_EFFECT[name])
    assert own_version(job) != own_version(other)


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert sha256({"a": 1, "b": 2}) == sha256({"b": 2, "a": 1}) != sha256({"a": 2, "b": 1})
