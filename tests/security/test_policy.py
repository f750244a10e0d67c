"""Hostile specs against the default policy, without admission: the operator starts nothing."""

import pytest
from tests.fakes.apiserver import SPEC, Cluster, copied, merge
from tests.support.attacks.hostile_specs import MEMBERSHIPS, PRIVILEGES, Hostile


def _cases(hostile: tuple[Hostile, ...], number: int, title: str) -> list[object]:
    mark = pytest.mark.finding(number, title)
    return [pytest.param(each, id=each.name, marks=mark) for each in hostile]


@pytest.mark.parametrize(
    "hostile",
    [
        *_cases(PRIVILEGES, 6, "a job reaches nodes, priorities and devices"),
        *_cases(MEMBERSHIPS, 7, "the pods of a job join other workloads"),
    ],
)
def test_a_hostile_spec_starts_nothing(hostile: Hostile) -> None:
    spec = copied(SPEC)
    merge(spec, hostile.spec)
    cluster = Cluster(spec=spec)
    cluster.settle()
    ready = cluster.status["conditions"][0]
    assert ready["reason"] == "NotAllowed"
    assert ready["message"].startswith(f"{hostile.field}: ")
    assert cluster.objects == {}
