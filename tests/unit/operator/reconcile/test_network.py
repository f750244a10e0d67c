"""NetworkPolicies: created with the first pods that they select, corrected if they differ."""

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import CONFIG, Cluster, copied

from finetune_operator.connections import Hub

POLICIES = ("demo-prepare", "demo-serve", "demo-work")


def specs(cluster: Cluster) -> dict[str, object]:
    return {each["metadata"]["name"]: each["spec"] for each in cluster.each("NetworkPolicy")}


def started() -> Cluster:
    cluster = Cluster()
    controllers.run_all(cluster)
    assert sorted(specs(cluster)) == sorted(POLICIES)
    return cluster


@pytest.mark.parametrize(
    ("stages", "policies"),
    [
        ((), POLICIES[:1]),
        (("prepare",), ("demo-prepare", "demo-work")),
        (("prepare", "train"), ("demo-prepare", "demo-work")),
        (("prepare", "train", "merge"), POLICIES),
    ],
)
def test_a_policy_is_created_before_the_first_object_with_such_pods(
    stages: tuple[str, ...], policies: tuple[str, ...]
) -> None:
    cluster = Cluster()
    for stage in stages:
        controllers.run(cluster, stage)
    actions = [action.object["kind"] for action in cluster.plan().actions]
    if "NetworkPolicy" in actions:
        assert actions.index("NetworkPolicy") == 0
    cluster.settle()
    assert sorted(specs(cluster)) == sorted(policies)


def test_an_edit_that_starts_again_keeps_the_policies_of_the_serving_build() -> None:
    cluster = started()
    cluster.edit(rerun="again")
    cluster.settle()
    found = cluster.get("NetworkPolicy", "demo-serve")
    assert found is not None
    cluster.remove(found)
    cluster.settle()
    assert sorted(specs(cluster)) == sorted(POLICIES)


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


def test_new_ca_certificates_retry_a_failed_preparation() -> None:
    cluster = Cluster()
    cluster.settle()
    refused = controllers.message("prepare", "failed", reason="InvalidSpec", message="refused")
    controllers.run(cluster, "prepare", 64, refused)
    cluster.settle()
    cluster.config = cluster.config.model_copy(update={"ca_certificates": "a certificate"})
    cluster.settle()
    controllers.sync(cluster)
    job = next(each for each in cluster.each("Job") if not controllers.ended(each))
    assert controllers.request_of(job).ca_certificates == "a certificate"


def test_prepare_pods_can_connect_to_the_hub_of_their_revision() -> None:
    """Their request has the hub with which the revision started, whatever the chart has now."""
    hub = Hub(endpoint="http://hub.models.svc:8080")
    cluster = Cluster(config=CONFIG.model_copy(update={"hub": hub}))
    cluster.settle()
    before = cluster.get("NetworkPolicy", "demo-prepare")
    assert before is not None
    assert 8080 in {port["port"] for rule in before["spec"]["egress"] for port in rule["ports"]}
    cluster.config = CONFIG
    cluster.settle()
    assert cluster.get("NetworkPolicy", "demo-prepare") == before
