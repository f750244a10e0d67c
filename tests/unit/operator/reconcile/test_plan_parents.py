"""``training.startFrom.job``: resolved once, by digest, and with credentials of the job alone."""

import json
from typing import Any

import pytest
from tests.fakes import controllers, scheduler
from tests.fakes.apiserver import CONFIG, SPEC, Cluster, Thing
from tests.support.reconcile.serving_steps import reason, replicas, serving

from finetune_api.policy.limits import Limits, Names
from finetune_operator import delays
from finetune_operator.config import Settings
from finetune_operator.connections import Hub
from finetune_operator.reconcile.plan import plan

OPEN: Settings = CONFIG.model_copy(
    update={"policy": Limits(publish_destinations=Names(allow=(".*",)))}
)
REGISTRY: Thing = {
    "name": "registry",
    "what": "adapter",
    "oci": {"repository": "registry.example.com/m/parent", "secretRef": {"name": "push"}},
}
BUCKET: Thing = {
    "name": "bucket",
    "what": "adapter",
    "s3": {"uri": "s3://models/parent", "endpoint": "https://minio.example.com", "region": "eu-1"},
}
HUB: Thing = {"name": "hub", "what": "adapter", "huggingFace": {"repo": "acme/parent"}}
PULL: Thing = {"oci": {"secretRef": {"name": "pull"}}}
KEYS: Thing = {"s3": {"secretRef": {"name": "keys"}}}
TOKEN: Thing = {"tokenSecretRef": {"name": "token"}}


def parent(*targets: Thing, published: bool = True, config: Settings = OPEN) -> Cluster:
    """Return the job ``parent`` after its training, and after publishing."""
    spec = {
        **SPEC,
        "serving": {"enabled": False},
        "merge": {"enabled": False},
        "publish": list(targets),
    }
    cluster = Cluster(name="parent", spec=spec, config=config)
    for stage in ("prepare", "train"):
        controllers.run(cluster, stage)
    cluster.settle()
    if published:
        controllers.publish(cluster)
    return cluster


def child(*others: Cluster, config: Settings = OPEN, name: str = "parent", **start: Any) -> Cluster:
    training = {**SPEC.get("training", {}), "startFrom": {"job": {"name": name}, **start}}
    cluster = Cluster(name="child", spec={**SPEC, "training": training}, config=config)
    for each in others:
        cluster.others[each.name] = each.present_job()
    return cluster


def ready(cluster: Cluster) -> Thing:
    cluster.settle()
    (found,) = (each for each in cluster.status["conditions"] if each["type"] == "Ready")
    return dict(found)


def adapter(cluster: Cluster) -> Thing:
    """Return what the first revision has recorded about the adapter."""
    cluster.settle()
    found: Thing = cluster.status["revisions"][0]["frozen"]["parent"]
    return found


def job_file(cluster: Cluster) -> Thing:
    (configmap,) = cluster.each("ConfigMap")
    found: Thing = json.loads(configmap["data"]["job.json"])
    return found


def variables(cluster: Cluster) -> dict[str, Thing]:
    """Return the environment of the prepare pod that concerns the adapter."""
    (job,) = cluster.each("Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each for each in container["env"] if "START" in each["name"]}


def digest(cluster: Cluster) -> str:
    return str(cluster.status["publish"][0]["digest"])


def test_the_published_digest_is_frozen_with_the_revision() -> None:
    earlier = parent(REGISTRY)
    cluster = child(earlier, **PULL)
    revision = earlier.status["revision"]
    assert adapter(cluster) == {
        "job": "parent",
        "revision": revision,
        "revisionDigest": earlier.status["revisions"][0]["frozen"]["digest"],
        "source": f"oci://registry.example.com/m/parent@{digest(earlier)}",
        "digest": digest(earlier),
    }
    found = job_file(cluster)
    assert found["training"]["startFrom"] == {
        "source": f"oci://registry.example.com/m/parent@{digest(earlier)}",
        "revision": None,
        "s3": {"endpoint": None},
    }
    assert found["parent"] == {
        "job": "parent",
        "revision": revision,
        "digest": digest(earlier),
        "manifest": None,
    }
    (secret,) = variables(cluster).values()
    assert secret["valueFrom"]["secretKeyRef"]["name"] == "pull"


def test_nothing_that_happens_to_the_other_job_changes_a_revision() -> None:
    earlier = parent(REGISTRY)
    cluster = child(earlier, **PULL)
    before = adapter(cluster)
    revision = cluster.status["revision"]
    cluster.others["parent"] = parent(BUCKET).present_job()
    assert adapter(cluster) == before
    del cluster.others["parent"]
    controllers.run(cluster, "prepare")
    assert cluster.status["revision"] == revision
    assert adapter(cluster) == before
    assert [each["revision"] for each in cluster.status["revisions"]] == [revision]


def test_another_name_or_revision_trains_another_revision() -> None:
    earlier = parent(REGISTRY)
    cluster = child(earlier, **PULL)
    cluster.settle()
    first = cluster.status["revision"]
    job = {"job": {"revision": earlier.status["revision"]}}
    cluster.edit(training={"startFrom": job})
    cluster.settle()
    assert cluster.status["revision"] != first
    cluster.edit(training={"startFrom": {"oci": {"secretRef": {"name": "other"}}}})
    second = cluster.status["revision"]
    cluster.settle()
    assert cluster.status["revision"] == second, "how it is reached trains nothing again"


def test_a_job_that_does_not_exist_is_named_before_anything_runs() -> None:
    cluster = child(**PULL)
    found = ready(cluster)
    assert (found["status"], found["reason"]) == ("False", "AdapterNotPublished")
    assert "there is no FineTuneJob parent in the namespace" in found["message"]
    assert not list(cluster.each("Job"))
    assert not list(cluster.each("PersistentVolumeClaim"))
    waiting = plan(cluster.observe(), now=cluster.now)
    assert waiting.requeue_after == delays.PARENT


def test_training_starts_as_soon_as_the_adapter_is_published() -> None:
    earlier = parent(REGISTRY, published=False)
    cluster = child(earlier, **PULL)
    found = ready(cluster)
    assert found["reason"] == "AdapterNotPublished"
    assert "has not published its adapter. Add a target with what: adapter" in found["message"]
    assert not list(cluster.each("Job"))
    controllers.publish(earlier)
    cluster.others["parent"] = earlier.present_job()
    cluster.settle()
    assert [each["metadata"]["labels"]["finetune.dev/stage"] for each in cluster.each("Job")] == [
        "prepare"
    ]


def test_a_failed_target_holds_no_adapter() -> None:
    earlier = parent(REGISTRY, published=False)
    controllers.publish(earlier, "registry")
    assert ready(child(earlier, **PULL))["reason"] == "AdapterNotPublished"


def test_a_merged_model_is_no_adapter() -> None:
    earlier = Cluster(
        name="parent",
        spec={
            **SPEC,
            "serving": {"enabled": False},
            "publish": [{**REGISTRY, "what": "merged"}],
        },
        config=OPEN,
    )
    for stage in ("prepare", "train", "merge"):
        controllers.run(earlier, stage)
    controllers.publish(earlier)
    assert earlier.status["publish"][0]["digest"]
    assert ready(child(earlier, **PULL))["reason"] == "AdapterNotPublished"


def test_a_revision_that_is_not_retained_is_named() -> None:
    earlier = parent(REGISTRY)
    cluster = child(earlier, **PULL, job={"name": "parent", "revision": "0" * 8})
    found = ready(cluster)
    assert found["reason"] == "AdapterNotPublished"
    assert "has no revision 00000000" in found["message"]
    assert earlier.status["revision"] in found["message"]


@pytest.mark.parametrize(
    ("target", "own", "field"),
    [
        (REGISTRY, {}, "oci.secretRef"),
        (REGISTRY, TOKEN, "oci.secretRef"),
        (BUCKET, {}, "s3.secretRef"),
        (HUB, {}, "tokenSecretRef"),
    ],
)
def test_credentials_that_the_job_did_not_write_are_asked_for(
    target: Thing, own: Thing, field: str
) -> None:
    cluster = child(parent(target), **own)
    found = ready(cluster)
    assert (found["reason"], found["status"]) == ("AdapterNotPublished", "False")
    assert cluster.plan().requeue_after == delays.PARENT
    assert (
        "needs credentials, and those of the other job and of the defaults are not used"
        in (found["message"])
    )
    assert f"set spec.training.startFrom.{field} to a Secret" in found["message"]
    assert not list(cluster.each("Job"))


@pytest.mark.parametrize(("target", "own"), [(REGISTRY, PULL), (BUCKET, KEYS), (HUB, TOKEN)])
def test_defaults_give_no_credentials(target: Thing, own: Thing) -> None:
    defaults = {"training": {"startFrom": own}, "access": {"serviceAccountName": "cloud"}}
    config = OPEN.model_copy(update={"defaults": defaults})
    found = ready(child(parent(target), config=config))
    assert found["reason"] == "AdapterNotPublished"
    assert "needs credentials" in found["message"]


def test_a_public_image_needs_no_credentials() -> None:
    target = {**REGISTRY, "oci": {"repository": "registry.example.com/m/parent"}}
    cluster = child(parent(target))
    assert adapter(cluster)["source"].startswith("oci://registry.example.com/m/parent@sha256:")
    assert not variables(cluster)


def test_the_place_in_a_bucket_has_the_name_of_the_digest() -> None:
    earlier = parent(BUCKET)
    cluster = child(earlier, **KEYS)
    hexadecimal = digest(earlier).removeprefix("sha256:")
    found = adapter(cluster)
    assert found["source"] == f"s3://models/parent/sha256-{hexadecimal}"
    assert (found["endpoint"], found["region"]) == ("https://minio.example.com", "eu-1")
    assert found["manifest"] == hexadecimal
    assert job_file(cluster)["training"]["startFrom"]["s3"] == {
        "endpoint": "https://minio.example.com"
    }
    assert variables(cluster)["TRAINING_STARTFROM_AWS_REGION"]["value"] == "eu-1"


def test_a_cloud_identity_that_the_job_wrote_is_used_for_a_bucket() -> None:
    earlier = parent(BUCKET)
    cluster = child(earlier)
    cluster.edit(access={"serviceAccountName": "cloud"})
    assert adapter(cluster)["source"].startswith("s3://models/parent/")


def test_a_repository_on_the_hub_is_named_by_its_commit() -> None:
    earlier = parent(HUB)
    cluster = child(earlier, **TOKEN, **PULL)
    found = adapter(cluster)
    assert found["source"] == "hf://acme/parent"
    assert found["commit"] == digest(earlier).removeprefix("sha1:")
    assert job_file(cluster)["training"]["startFrom"]["revision"] == found["commit"]
    assert list(variables(cluster)) == ["TRAINING_STARTFROM_HF_TOKEN"]


def test_an_adapter_on_another_hub_is_not_looked_for_on_the_present_one() -> None:
    mirror = OPEN.model_copy(update={"hub": Hub(endpoint="https://hub.example.com")})
    earlier = parent(HUB, config=mirror)
    assert ready(child(earlier, **TOKEN))["reason"] == "AdapterNotPublished"
    assert adapter(child(earlier, config=mirror, **TOKEN))["source"] == "hf://acme/parent"


def test_the_target_with_credentials_is_chosen() -> None:
    cluster = child(parent(REGISTRY, BUCKET), **KEYS)
    assert adapter(cluster)["source"].startswith("s3://")


def test_the_policy_applies_to_the_place() -> None:
    closed = Limits(publish_destinations=Names(allow=(".*",)), sources=Names(deny=("oci://.*",)))
    config = OPEN.model_copy(update={"policy": closed})
    found = ready(child(parent(REGISTRY), config=config, **PULL))
    assert found["reason"] == "NotAllowed"
    assert "spec.training.startFrom.source" in found["message"]


def test_a_job_replaces_the_source_of_the_defaults() -> None:
    defaults = {"training": {"startFrom": {"source": "hf://acme/other", "revision": "v1"}}}
    config = OPEN.model_copy(update={"defaults": defaults})
    cluster = child(parent(REGISTRY), config=config, **PULL)
    assert adapter(cluster)["source"].startswith("oci://")


MISSING: Thing = {"startFrom": {"job": {"name": "missing"}}}


def test_the_training_of_the_previous_revision_stops_while_the_new_one_waits() -> None:
    cluster = Cluster(config=OPEN)
    controllers.run(cluster, "prepare")
    cluster.settle()
    (training,) = (each for each in cluster.each("Job") if not controllers.ended(each))
    cluster.edit(training=MISSING)
    assert ready(cluster)["reason"] == "AdapterNotPublished"
    assert "deletionTimestamp" in training["metadata"] or training["spec"]["suspend"]
    controllers.sync(cluster)
    cluster.settle()
    assert all(controllers.ended(each) for each in cluster.each("Job"))


def test_a_job_that_waits_can_be_suspended() -> None:
    cluster = child(**PULL)
    cluster.edit(suspend=True)
    assert ready(cluster)["reason"] == "SuspendedByUser"
    cluster.edit(suspend=False)
    assert ready(cluster)["reason"] == "AdapterNotPublished"


def test_the_model_of_the_previous_revision_sleeps_and_wakes_while_the_new_one_waits() -> None:
    cluster = serving(1, idle={"afterSeconds": 600})
    cluster.edit(training=MISSING)
    scheduler.settle(cluster, 1)
    assert (replicas(cluster), reason(cluster)) == ([1], "AdapterNotPublished")
    cluster.wait(600)
    scheduler.settle(cluster, 1)
    assert replicas(cluster) == [0]
    cluster.wait(60)
    cluster.annotate(wake=cluster.stamp())
    scheduler.settle(cluster, 1)
    assert replicas(cluster) == [1]
    cluster.edit(serving={"enabled": False})
    scheduler.settle(cluster, 1)
    assert replicas(cluster) == []
