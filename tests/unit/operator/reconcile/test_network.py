"""NetworkPolicies of a started revision: created if missing, corrected if they differ."""

from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, copied

POLICIES = ("demo-prepare", "demo-serve", "demo-work")


def specs(cluster: Cluster) -> dict[str, object]:
    return {each["metadata"]["name"]: each["spec"] for each in cluster.each("NetworkPolicy")}


def started() -> Cluster:
    cluster = Cluster()
    controllers.run_all(cluster)
    assert sorted(specs(cluster)) == sorted(POLICIES)
    return cluster


def test_a_deleted_policy_is_created_again() -> None:
    cluster = started()
    before = copied(specs(cluster))
    for name in POLICIES:
        found = cluster.get("NetworkPolicy", name)
        assert found is not None
        cluster.remove(found)
        cluster.settle()
        assert specs(cluster) == before


def test_a_policy_that_another_writer_changed_is_corrected() -> None:
    cluster = started()
    before = copied(specs(cluster))
    for name in POLICIES:
        found = cluster.get("NetworkPolicy", name)
        assert found is not None
        found["spec"]["egress"] = [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]
        cluster.touch(found)
        cluster.settle()
        assert specs(cluster) == before


def test_a_policy_whose_empty_lists_the_api_server_dropped_is_left_alone() -> None:
    cluster = started()
    dropped = 0
    for found in cluster.each("NetworkPolicy"):
        for key in [key for key, value in found["spec"].items() if value == []]:
            del found["spec"][key]
            dropped += 1
    assert dropped
    actions = cluster.plan().actions
    assert "NetworkPolicy" not in {action.object["kind"] for action in actions}
