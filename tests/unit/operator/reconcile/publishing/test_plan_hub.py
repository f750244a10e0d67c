"""Publishing to a hub after the hub in the settings of the chart has changed."""

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import SPEC, Cluster, Thing
from tests.fakes.controllers import request_of
from tests.unit.operator.reconcile.publishing.test_plan_publishing import (
    NOT_MERGED,
    OPEN,
    cluster_of,
    condition,
    jobs,
    trained,
)
from tests.unit.operator.reconcile.test_plan_profiles import offer

from finetune_operator.connections import Hub
from finetune_operator.manifests.egress import NAMESPACE_LABEL

CORPORATE = "https://hub.corp.example"
IN_CLUSTER = "http://hub.models.svc:8080"


def on_hub(secret: str = "hub") -> Thing:
    reference = {"name": secret, "key": "token"}
    place = {"repo": "acme/support", "tokenSecretRef": reference}
    return {"name": "a", "what": "adapter", "huggingFace": place}


def use_hub(cluster: Cluster, endpoint: str) -> None:
    cluster.config = cluster.config.model_copy(update={"hub": Hub(endpoint=endpoint)})
    cluster.settle()


def endpoint(cluster: Cluster) -> str | None:
    """Return the hub to which the newest publish Job sends the model."""
    (target,) = request_of(jobs(cluster)[-1]).targets
    assert target.hugging_face is not None
    found: str | None = target.hugging_face.endpoint
    return found


def token(cluster: Cluster) -> str:
    """Return the name of the Secret with the token of the newest publish Job."""
    (container,) = jobs(cluster)[-1]["spec"]["template"]["spec"]["containers"]
    variables = {each["name"]: each for each in container["env"]}
    name: str = variables["PUBLISH_A_HF_TOKEN"]["valueFrom"]["secretKeyRef"]["name"]
    return name


def open_namespaces(cluster: Cluster, policy: str) -> list[str]:
    """Return the namespaces to which the pods of a policy can connect, without that of the DNS."""
    found = cluster.get("NetworkPolicy", policy)
    assert found is not None
    names = [
        peer["namespaceSelector"]["matchLabels"][NAMESPACE_LABEL]
        for rule in found["spec"]["egress"]
        for peer in rule["to"]
        if "namespaceSelector" in peer
    ]
    return [name for name in names if name != "kube-system"]


@pytest.mark.parametrize(
    ("before", "after"), [("", CORPORATE), (CORPORATE, ""), (CORPORATE, IN_CLUSTER)]
)
def test_target_of_an_edit_is_on_the_present_hub(before: str, after: str) -> None:
    """A token for the hub of the chart is not sent to the hub of an earlier chart."""
    cluster = cluster_of(config=OPEN.model_copy(update={"hub": Hub(endpoint=before)}), **NOT_MERGED)
    for stage in ("prepare", "train"):
        controllers.run(cluster, stage)
    use_hub(cluster, after)
    revision = cluster.status["revision"]
    cluster.edit(publish=[on_hub()])
    cluster.settle()
    assert cluster.status["revision"] == revision
    assert endpoint(cluster) == (after or None)
    allowed = request_of(jobs(cluster)[-1]).destinations.namespaces
    expected = ["models"] if after == IN_CLUSTER else []
    assert [each.name for each in allowed] == expected
    assert open_namespaces(cluster, "demo-publish") == expected


def test_another_hub_is_another_place() -> None:
    cluster = trained(on_hub())
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"
    use_hub(cluster, CORPORATE)
    assert condition(cluster)["status"] == "Unknown", "the hub does not have the model yet"
    assert endpoint(cluster) == CORPORATE
    assert len(request_of(jobs(cluster)[-1]).targets[0].own) == 1
    controllers.publish(cluster)
    assert condition(cluster)["status"] == "True"
    assert len(jobs(cluster)) == 2


@pytest.mark.parametrize(
    ("before", "after"),
    [("", "https://huggingface.co"), (CORPORATE, f"{CORPORATE}/")],
)
def test_another_spelling_is_the_same_hub(before: str, after: str) -> None:
    cluster = trained(on_hub(), config=OPEN.model_copy(update={"hub": Hub(endpoint=before)}))
    controllers.publish(cluster)
    use_hub(cluster, after)
    assert condition(cluster)["status"] == "True"
    assert endpoint(cluster) == (before or None)


def test_result_counts_for_the_hub_that_its_job_was_given() -> None:
    cluster = trained(on_hub())
    cluster.settle()
    controllers.sync(cluster)
    pod = controllers.pod_of_stage(cluster, "publish")
    controllers.start(cluster, pod)
    cluster.settle()
    use_hub(cluster, CORPORATE)
    done = controllers.message("publish", artifacts=controllers.published(pod))
    controllers.finish(cluster, pod, 0, done)
    controllers.sync(cluster)
    cluster.settle()
    assert condition(cluster)["status"] == "Unknown"
    assert endpoint(cluster) == CORPORATE


@pytest.mark.parametrize(
    ("secret", "expected"), [("hub", CORPORATE), ("corporate", None), (None, None)]
)
def test_default_target_keeps_the_hub_for_which_its_token_was_configured(
    secret: str | None, expected: str | None
) -> None:
    """secret: of the target in the defaults of the chart, once the chart has another hub."""
    defaults = {"publish": [on_hub()]}
    config = OPEN.model_copy(update={"defaults": defaults})
    cluster = Cluster(spec={**SPEC, **NOT_MERGED}, config=config)
    controllers.run(cluster, "prepare")
    changed = {} if secret is None else {"publish": [on_hub(secret)]}
    cluster.config = cluster.config.model_copy(update={"defaults": changed})
    use_hub(cluster, CORPORATE)
    controllers.run(cluster, "train")
    cluster.settle()
    assert token(cluster) == "hub"
    assert endpoint(cluster) == expected


def test_target_of_another_profile_is_on_the_present_hub() -> None:
    cluster = Cluster(spec={**SPEC, **NOT_MERGED, "profile": "first"}, config=OPEN)
    for profile, secret in (("first", "hub"), ("second", "corporate")):
        offer(cluster, profile, defaults={"publish": [on_hub(secret)]})
    for stage in ("prepare", "train"):
        controllers.run(cluster, stage)
    controllers.publish(cluster, "a")
    revision = cluster.status["revision"]
    cluster.edit(profile="second")
    use_hub(cluster, CORPORATE)
    assert cluster.status["revision"] == revision
    assert token(cluster) == "corporate"
    assert endpoint(cluster) == CORPORATE


def test_a_limit_on_the_hosts_of_downloads_does_not_apply_to_targets() -> None:
    cluster = cluster_of(config=OPEN, **NOT_MERGED)
    limits = {"hosts": {"allow": [r"internal\.example"]}}
    offer(cluster, "small", default=True, limits=limits)
    cluster.edit(publish=[on_hub()])
    for stage in ("prepare", "train"):
        controllers.run(cluster, stage)
    cluster.settle()
    allowed = request_of(jobs(cluster)[-1]).destinations
    assert allowed is not None
    assert allowed.hosts is not None
    assert allowed.hosts.allow == (".*",)
