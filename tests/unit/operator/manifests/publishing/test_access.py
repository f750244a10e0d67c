"""The publish Job: its request, credentials, certificates, identity, place and connections."""

from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import CONFIG, SPEC, Cluster, Thing
from tests.fakes.controllers import request_of

from finetune_api.contracts.publish_targets import HuggingFaceTarget
from finetune_api.contracts.stage_request import PublishStageRequest
from finetune_api.policy.limits import Limits, Names
from finetune_api.v1alpha1.publishing.targets import PublishTarget
from finetune_operator.config import Settings
from finetune_operator.connections import Egress, Hub
from finetune_operator.manifests import egress, stage_requests
from finetune_operator.objects import naming

OPEN = CONFIG.model_copy(update={"policy": Limits(publish_destinations=Names(allow=(".*",)))})
ML = Egress.model_validate({"namespaces": [{"name": "ml", "ports": [5000]}]})
REGISTRY: Thing = {
    "name": "in-registry",
    "what": "adapter",
    "tags": ["latest"],
    "oci": {
        "repository": "registry.example.com/models/a",
        "secretRef": {"name": "login"},
        "caConfigMapRef": {"name": "ca", "key": "registry.crt"},
    },
}
BUCKET: Thing = {
    "name": "in-bucket",
    "what": "adapter",
    "s3": {
        "uri": "s3://models/a",
        "endpoint": "https://minio.storage.svc:9000",
        "region": "eu-central-1",
        "secretRef": {"name": "minio"},
    },
}
HUB: Thing = {
    "name": "on-hub",
    "what": "adapter",
    "overwrite": True,
    "huggingFace": {
        "repo": "acme/support",
        "branch": "tuned",
        "tokenSecretRef": {"name": "hub", "key": "write"},
        "caConfigMapRef": {"name": "ca"},
    },
}


def published(*targets: Thing, config: Settings = OPEN, **spec: Any) -> tuple[Cluster, Thing]:
    """Return a job without endpoint that publishes, and its publish Job."""
    alone = {"serving": {"enabled": False}, "merge": {"enabled": False}}
    cluster = Cluster(spec={**SPEC, **alone, "publish": [*targets], **spec}, config=config)
    for stage in ("prepare", "train"):
        controllers.run(cluster, stage)
    cluster.settle()
    (job,) = (
        each
        for each in cluster.each("Job")
        if each["metadata"]["labels"][naming.STAGE] == "publish"
    )
    return cluster, job


def env(job: Thing) -> dict[str, Thing]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each for each in container["env"]}


def test_each_target_has_its_own_credentials_and_certificates() -> None:
    _, job = published(REGISTRY, BUCKET)
    secrets = {
        name: each["valueFrom"]["secretKeyRef"]
        for name, each in env(job).items()
        if "secretKeyRef" in each.get("valueFrom", {})
    }
    assert secrets == {
        "PUBLISH_IN_REGISTRY_DOCKER_CONFIG_JSON": {"name": "login", "key": ".dockerconfigjson"},
        "PUBLISH_IN_BUCKET_AWS_ACCESS_KEY_ID": {"name": "minio", "key": "AWS_ACCESS_KEY_ID"},
        "PUBLISH_IN_BUCKET_AWS_SECRET_ACCESS_KEY": {
            "name": "minio",
            "key": "AWS_SECRET_ACCESS_KEY",
        },
        "PUBLISH_IN_BUCKET_AWS_SESSION_TOKEN": {
            "name": "minio",
            "key": "AWS_SESSION_TOKEN",
            "optional": True,
        },
    }
    config = next(
        each for each in job["spec"]["template"]["spec"]["volumes"] if each["name"] == "config"
    )
    path = "ca/publish-in-registry.crt"
    assert config["projected"]["sources"][1:] == [
        {"configMap": {"name": "ca", "items": [{"key": "registry.crt", "path": path}]}}
    ]
    first, second = request_of(job).targets
    assert (first.oci.ca, second.s3.ca) == (f"/etc/finetune/{path}", None)


def test_request_names_content_and_places() -> None:
    cluster, job = published(REGISTRY, BUCKET)
    request = request_of(job)
    assert isinstance(request, PublishStageRequest)
    assert request.build is None
    assert request.base_manifest == controllers.digest_of("baseManifest")
    revision = cluster.status["revision"]
    for each in request.targets:
        assert each.content == controllers.digest_of("adapterManifest")
        assert each.version == f"demo-{revision}-adapter"
        assert each.annotations["finetune.dev/job"] == "ns/demo"
    first, second = request.targets
    assert (first.tags, first.own) == (("latest",), ())
    assert second.s3 is not None
    assert (second.s3.uri, second.s3.region) == ("s3://models/a", "eu-central-1")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (REGISTRY, None),
        (BUCKET, None),
        ({"name": "a", "what": "adapter", "s3": {"uri": "s3://models/a"}}, "robot"),
    ],
)
def test_only_a_bucket_without_secret_is_written_with_the_cloud_identity(
    target: Thing, expected: str | None
) -> None:
    _, job = published(target, access={"serviceAccountName": "robot"})
    pod = job["spec"]["template"]["spec"]
    assert pod.get("serviceAccountName") == expected
    assert pod["automountServiceAccountToken"] is False


def test_pod_prefers_the_node_of_the_serving_pods_and_has_no_gpu() -> None:
    cluster, job = published(REGISTRY)
    pod = job["spec"]["template"]["spec"]
    preferred = pod["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert preferred[0]["podAffinityTerm"]["labelSelector"]["matchLabels"] == {
        naming.JOB: "demo",
        naming.STAGE: "serve",
        naming.BUILD: cluster.status["build"],
    }
    assert pod["affinity"]["nodeAffinity"], "the nodes that the volume may be bound to"
    (container,) = pod["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "500m", "memory": "512Mi"},
        "limits": {"memory": "1Gi"},
    }


def test_failed_targets_end_the_job_at_once() -> None:
    _, job = published(REGISTRY)
    final = job["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]
    assert 87 in final


STORES = {"namespaces": [{"name": "storage", "ports": [9000]}, {"name": "hub", "ports": [80]}]}


@pytest.mark.parametrize(
    ("targets", "namespaces", "outside"),
    [
        ([REGISTRY], [], True),
        ([BUCKET], ["storage"], False),
        ([REGISTRY, BUCKET], ["storage"], True),
    ],
)
def test_pod_reaches_only_the_places_of_its_targets(
    targets: list[Thing], namespaces: list[str], outside: bool
) -> None:
    hub = {"endpoint": "http://hub.hub.svc"}
    config = Settings.model_validate({**OPEN.model_dump(mode="json"), "egress": STORES, "hub": hub})
    cluster, job = published(*targets, config=config)
    allowed = request_of(job).destinations
    assert [each.name for each in allowed.namespaces] == namespaces
    assert bool(allowed.blocks) is outside
    policy = cluster.get("NetworkPolicy", "demo-publish")
    assert policy
    assert policy["spec"]["podSelector"]["matchExpressions"][0]["values"] == ["publish"]
    rules = policy["spec"]["egress"]
    assert rules[: len(egress.dns(config))] == egress.dns(config)
    assert len(rules) == len(egress.dns(config)) + len(namespaces) + outside


def test_target_on_the_hub() -> None:
    """The token is for its target alone, and the hub is that of the chart."""
    config = OPEN.model_copy(update={"hub": Hub(endpoint="https://hub.models.svc:8443")})
    _, job = published(HUB, config=config)
    variables = env(job)
    assert variables["PUBLISH_ON_HUB_HF_TOKEN"]["valueFrom"] == {
        "secretKeyRef": {"name": "hub", "key": "write"}
    }
    assert "HF_HUB_OFFLINE" not in variables
    (target,) = request_of(job).targets
    assert target.overwrite
    assert target.hugging_face == HuggingFaceTarget(
        repo="acme/support",
        branch="tuned",
        private=True,
        endpoint="https://hub.models.svc:8443",
        ca="/etc/finetune/ca/publish-on-hub.crt",
    )


def test_only_a_target_on_the_hub_connects_to_it() -> None:
    config = OPEN.model_copy(update={"hub": Hub(endpoint="https://hub.models.svc:8443")})
    _, with_hub = published(HUB, config=config)
    _, without = published(REGISTRY, config=config)
    assert request_of(without).destinations.namespaces == ()
    assert "HF_HUB_OFFLINE" in env(without)
    (namespace,) = request_of(with_hub).destinations.namespaces
    assert (namespace.name, namespace.ports) == ("models", (8443,))
    assert not request_of(with_hub).destinations.blocks, "no address outside the cluster"


def test_public_hub_is_reached_at_the_addresses_of_the_chart() -> None:
    _, job = published(HUB)
    assert (
        request_of(job).destinations.blocks
        == egress.destinations(OPEN, cloud_identity=False).blocks
    )
    assert request_of(job).targets[0].hugging_face.endpoint is None


def test_retry_key_of_other_targets_has_no_new_field() -> None:
    """A publication that has failed is not repeated because the operator was upgraded."""
    for target, expected in ((REGISTRY, False), (HUB, True)):
        entry = stage_requests._entry(PublishTarget.model_validate(target))
        assert ("huggingFace" in entry) is expected


TRACKING: Thing = {
    "mlflow": {
        "uri": "https://mlflow.ml.svc:5000",
        "registeredModel": "support",
        "secretRef": {"name": "tracking"},
        "caConfigMapRef": {"name": "ca"},
    }
}


def test_tracking_server_is_a_target_with_credentials_of_its_own() -> None:
    alone = {"mlflow": {**TRACKING["mlflow"], "registeredModel": None}}
    cluster, job = published(tracking=alone)
    (target,) = request_of(job).targets
    assert (target.name, target.what) == ("mlflow", "adapter")
    assert target.content == controllers.digest_of("adapterManifest")
    place = target.mlflow
    assert place is not None
    assert (place.uri, place.experiment) == ("https://mlflow.ml.svc:5000", "ns/demo")
    assert cluster.job is not None
    assert cluster.status is not None
    assert place.run == f"{cluster.job['metadata']['uid']}/{cluster.status['revision']}"
    assert place.started == 0, "the operator has not seen the training start"
    assert place.tags is not None
    assert place.tags["finetune.dev/job"] == "ns/demo"
    assert (place.source, place.ca) == (None, "/etc/finetune/ca/publish-mlflow.crt")
    token = env(job)["PUBLISH_MLFLOW_MLFLOW_TRACKING_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert token == {"name": "tracking", "key": "MLFLOW_TRACKING_TOKEN", "optional": True}
    assert request_of(job).destinations.namespaces == ()
    open_ = OPEN.model_copy(update={"egress": ML})
    _, job = published(tracking=alone, config=open_)
    (namespace,) = request_of(job).destinations.namespaces
    assert namespace.name == "ml"


def test_tracking_server_gets_links_to_the_published_models() -> None:
    cluster, _ = published(REGISTRY, BUCKET, tracking=TRACKING)
    controllers.publish(cluster)
    cluster.settle()
    job = [
        each
        for each in cluster.each("Job")
        if each["metadata"]["labels"][naming.STAGE] == "publish"
    ][-1]
    (target,) = request_of(job).targets
    by_name = {each["name"]: each for each in cluster.status["publish"]}
    reference = by_name["in-registry"]["reference"]
    assert target.mlflow.source == f"oci://{reference}"
    assert target.mlflow.registered_model == "support"
    assert target.mlflow.tags["finetune.dev/published.in-registry"] == reference
    bucket = target.mlflow.tags["finetune.dev/published.in-bucket"]
    assert bucket == by_name["in-bucket"]["reference"]
