"""Every write of a job's life is accounted for in bench/README.md."""

from collections import Counter

from bench.simulated.floor import recorded
from tests.fakes.apiserver import SPEC


def kind_of(method: str, path: str) -> str:
    """Return the plural in a path, or "status"."""
    words = path.partition("?")[0].split("/")
    return "status" if method == "PUT" else words[words.index("namespaces") + 2]


def test_the_writes_of_a_life_without_incidents() -> None:
    life = recorded(SPEC)
    sent = Counter(kind_of(each.method, each.path) for step in life.values() for each in step)
    assert sent == {
        "status": 5,
        "events": 4,
        "networkpolicies": 3,
        "jobs": 3,
        "configmaps": 1,
        "persistentvolumeclaims": 1,
        "deployments": 1,
        "services": 1,
    }


def test_five_writes_precede_the_first_pod() -> None:
    first, *independent, last = (
        kind_of(each.method, each.path) for each in recorded(SPEC)["created"]
    )
    assert (first, last) == ("status", "jobs")
    assert sorted(independent) == ["configmaps", "networkpolicies", "persistentvolumeclaims"]
