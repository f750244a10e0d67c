"""Profiles of jobs: frozen defaults, live limits, changes of the profile, and missing profiles."""

import json
from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import CONFIG, Cluster, Thing
from tests.support.reconcile.plan_steps import PREPARED, running

from finetune_api.policy.limits import Names
from finetune_api.revision_hash import text_digest
from finetune_api.v1alpha1.profile import DEFAULT_ANNOTATION
from finetune_operator.actions import Delete
from finetune_operator.manifests import placement
from finetune_operator.revisions import documents
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import resolve_target

LONGER: Thing = {"training": {"sequenceLength": 2048}}
LARGER: Thing = {"storage": {"size": "2Ti"}}
PRICE: Thing = {"perGpuHour": "2.50", "currency": "EUR"}


def offer(cluster: Cluster, name: str, *, default: bool = False, at: int = 1, **spec: Any) -> None:
    """Create or replace a profile. at: day of its creation."""
    before = cluster.profiles.get(name, {"metadata": {"generation": 0}})
    metadata: Thing = {
        "name": name,
        "uid": f"uid-of-{name}",
        "generation": before["metadata"]["generation"] + 1,
        "creationTimestamp": f"2030-01-{at:02}T00:00:00Z",
    }
    if default:
        metadata["annotations"] = {DEFAULT_ANNOTATION: "true"}
    cluster.profiles[name] = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneProfile",
        "metadata": metadata,
        "spec": spec,
    }


def ready(cluster: Cluster) -> Thing:
    """Reconcile, and return the condition Ready."""
    cluster.settle()
    (found,) = (each for each in cluster.status["conditions"] if each["type"] == "Ready")
    return dict(found)


def frozen(cluster: Cluster, revision: int = -1) -> Thing:
    """Return the frozen settings of a revision, by default of the present one."""
    settings: Thing = json.loads(cluster.status["revisions"][revision]["frozen"]["operator"])
    return settings


def started(**spec: Any) -> Cluster:
    """Return a cluster with two profiles that differ in the volume alone, and one that trains."""
    cluster = Cluster()
    offer(cluster, "small", defaults=LONGER, card="NVIDIA-L4", price=PRICE)
    offer(cluster, "roomy", defaults={**LONGER, **LARGER}, card="NVIDIA-H100")
    offer(cluster, "short", defaults={"training": {"sequenceLength": 512}})
    cluster.edit(**spec)
    cluster.settle()
    return cluster


def revisions(cluster: Cluster) -> list[str]:
    return [each["revision"] for each in cluster.status["revisions"]]


def test_a_job_without_a_profile_has_the_hashes_of_a_cluster_without_profiles() -> None:
    plain, offered = Cluster(), started()
    plain.settle()
    assert offered.status["revisions"] == plain.status["revisions"]
    assert "profile" not in frozen(offered)
    assert frozen(offered)["gpu"]["products"] == CONFIG.gpu.products


def test_defaults_card_and_price_are_frozen() -> None:
    cluster = started(profile="small")
    settings = frozen(cluster)
    assert settings["profile"] == {"name": "small", "card": "NVIDIA-L4", "price": PRICE}
    assert settings["gpu"]["products"] == ["NVIDIA-L4"]
    assert settings["defaults"]["training"]["sequenceLength"] == 2048
    (configuration,) = cluster.list("ConfigMap")
    assert "2.50" in configuration["data"]["operator.json"]
    assert "2.50" not in configuration["data"]["job.json"], "its model card may be published"
    before = cluster.status["revisions"]
    offer(cluster, "small", defaults={"training": {"sequenceLength": 4096}}, card="NVIDIA-H100")
    cluster.settle()
    assert cluster.status["revisions"] == before
    controllers.run_all(cluster)
    cluster.edit(rerun="with the present values")
    cluster.settle()
    assert frozen(cluster)["defaults"]["training"]["sequenceLength"] == 4096
    assert frozen(cluster)["gpu"]["products"] == ["NVIDIA-H100"]


def test_values_of_the_job_override_the_profile_which_overrides_the_chart() -> None:
    cluster = Cluster()
    chart = {"training": {"sequenceLength": 256, "seed": 7}, "storage": {"size": "1Ti"}}
    cluster.config = cluster.config.model_copy(update={"defaults": chart})
    offer(cluster, "small", defaults={**LONGER, **LARGER})
    cluster.edit(profile="small", storage={"size": "3Ti"})
    cluster.settle()
    defaults = frozen(cluster)["defaults"]
    assert (defaults["training"]["sequenceLength"], defaults["training"]["seed"]) == (2048, 7)
    (claim,) = cluster.list("PersistentVolumeClaim")
    assert claim["spec"]["resources"]["requests"]["storage"] == "3Ti"


def test_another_profile_with_the_same_training_part_retrains_nothing() -> None:
    cluster = started(profile="small")
    PREPARED(cluster)
    cluster.settle()
    running("train")(cluster)
    cluster.settle()
    before = revisions(cluster)
    cluster.edit(profile="roomy")
    plan = cluster.reconcile()
    # The Job continues; only the ConfigMap is made again from the new record.
    assert [each.object["kind"] for each in plan.actions if isinstance(each, Delete)] == [
        "ConfigMap"
    ]
    controllers.collect(cluster)
    assert ready(cluster)["reason"] == "Training"
    assert revisions(cluster) == before
    assert frozen(cluster)["profile"] == {"name": "roomy", "card": "NVIDIA-H100"}
    assert frozen(cluster)["defaults"]["storage"]["size"] == "2Ti"
    # Its values are frozen now, too.
    offer(cluster, "roomy", defaults={"training": {"sequenceLength": 4096}})
    assert ready(cluster)["reason"] == "Training"
    assert revisions(cluster) == before


def test_another_profile_with_another_training_part_retrains() -> None:
    cluster = started(profile="small")
    controllers.run_all(cluster)
    cluster.edit(profile="short")
    assert ready(cluster)["reason"] == "Preparing"
    assert len(revisions(cluster)) == 2
    # The revision of the first profile is retained, with its own values.
    offer(cluster, "small", defaults={"training": {"sequenceLength": 4096}})
    cluster.edit(profile="small")
    assert ready(cluster)["reason"] == "Serving"
    assert frozen(cluster)["defaults"]["training"]["sequenceLength"] == 2048


@pytest.mark.parametrize("before", [None, "small"])
def test_another_profile_keeps_a_format_that_is_equal_to_auto(before: str | None) -> None:
    cluster = Cluster()
    offer(cluster, "small")
    offer(cluster, "other")
    dataset = {"source": "hf://acme/rows", "format": "auto"}
    cluster.edit(profile=before, dataset=dataset)
    detected = {"format": "messages", "requested": "auto", "detected": "messages"}
    artifacts = {"formats": [{"dataset": "dataset", **detected}]}
    controllers.run(cluster, "prepare", text=controllers.message("prepare", artifacts=artifacts))
    cluster.settle()
    first = revisions(cluster)
    cluster.edit(dataset={**dataset, "format": "messages"})
    cluster.settle()
    assert revisions(cluster) == first
    cluster.edit(profile="other")
    cluster.settle()
    assert revisions(cluster) == first
    assert frozen(cluster)["profile"] == {"name": "other"}


@pytest.mark.parametrize("layer", [{}, {"storage": {"size": "2Ti"}, "training": {"seed": 3407}}])
def test_a_profile_is_completed_by_the_frozen_defaults_of_a_revision_without_one(
    layer: Thing,
) -> None:
    cluster = Cluster()
    controllers.run_all(cluster)
    first = revisions(cluster)
    chart = {"training": {"epochs": 7}}
    cluster.config = cluster.config.model_copy(update={"defaults": chart})
    offer(cluster, "small", defaults=layer)
    cluster.edit(profile="small")
    assert ready(cluster)["reason"] == "Serving"
    assert revisions(cluster) == first
    assert frozen(cluster)["profile"] == {"name": "small"}
    assert frozen(cluster)["defaults"]["training"]["epochs"] != 7
    # The record now has the profile, and its values are frozen.
    offer(cluster, "small", defaults={"training": {"seed": 3}})
    assert ready(cluster)["reason"] == "Serving"
    assert revisions(cluster) == first
    cluster.edit(rerun="again")
    cluster.settle()
    assert (
        frozen(cluster)["defaults"]["training"] | {"epochs": 7, "seed": 3}
        == (frozen(cluster)["defaults"]["training"])
    )


def test_a_removed_profile_is_a_change_of_the_profile() -> None:
    cluster = started(profile="short")
    controllers.run_all(cluster)
    first = revisions(cluster)
    cluster.edit(profile=None)
    cluster.settle()
    assert revisions(cluster) != first
    assert "profile" not in frozen(cluster)


@pytest.mark.parametrize("written", [None, "small"])
def test_a_default_profile_applies_to_new_revisions(written: str | None) -> None:
    """Jobs that started without it keep their values, and its name can be written."""
    cluster = Cluster()
    controllers.run_all(cluster)
    before = revisions(cluster)
    offer(cluster, "small", default=True, defaults=LONGER)
    cluster.settle()
    assert revisions(cluster) == before
    cluster.edit(rerun="again")
    cluster.settle()
    assert frozen(cluster)["profile"] == {"name": "small", "byDefault": True}
    started = revisions(cluster)
    cluster.edit(profile=written)
    offer(cluster, "small", defaults={"training": {"sequenceLength": 4096}})
    cluster.settle()
    assert revisions(cluster) == started


def test_of_two_default_profiles_the_newest_has_the_defaults_and_both_limit() -> None:
    cluster = Cluster()
    offer(cluster, "a", default=True, at=2, defaults=LONGER, limits={"maxReplicas": 2})
    offer(cluster, "b", default=True, at=1, limits={"queues": {"allow": ["team"]}})
    cluster.edit(queueName="other")
    found = ready(cluster)
    assert found["reason"] == "NotAllowed"
    assert "limits.queues of FineTuneProfile b" in found["message"]
    cluster.edit(queueName=None)
    cluster.settle()
    assert frozen(cluster)["profile"]["name"] == "a"


def test_limits_are_live() -> None:
    cluster = started(profile="small")
    PREPARED(cluster)
    offer(cluster, "small", defaults=LONGER, limits={"maxSequenceLength": 1024})
    found = ready(cluster)
    # The prepare Job has ended, and the next attempt does not start.
    assert found["reason"] == "NotAllowed"
    assert found["message"] == (
        "spec.training.sequenceLength: 2048 is not allowed. At most 1024 is allowed "
        "(limits.maxSequenceLength of FineTuneProfile small). Set an allowed value, or ask your "
        "cluster administrator to allow this one."
    )
    offer(cluster, "small", defaults=LONGER, limits={"maxSequenceLength": 2048})
    assert ready(cluster)["reason"] == "Training"
    offer(cluster, "small", defaults=LONGER, limits={"maxSequenceLength": 1024})
    running("train")(cluster)
    assert ready(cluster)["reason"] == "Training"


def test_limits_of_the_chart_apply_to_jobs_with_a_profile() -> None:
    cluster = started()
    cluster.edit(profile="small", priorityClassName="system-node-critical")
    found = ready(cluster)
    assert found["reason"] == "NotAllowed"
    assert "(chart value policy.priorityClasses)" in found["message"]


def test_a_missing_profile_holds_new_revisions_and_a_started_one_continues() -> None:
    cluster = Cluster()
    cluster.edit(profile="small")
    found = ready(cluster)
    assert (found["status"], found["reason"]) == ("False", "ProfileNotFound")
    assert "there is no FineTuneProfile small" in found["message"]
    assert "kubectl get finetuneprofiles" in found["message"]
    assert cluster.objects == {}
    offer(cluster, "small", defaults=LONGER)
    assert ready(cluster)["reason"] == "Preparing"
    del cluster.profiles["small"]
    assert ready(cluster)["reason"] == "Preparing"
    controllers.run_all(cluster)
    assert ready(cluster)["reason"] == "Serving"
    cluster.edit(rerun="again")
    assert ready(cluster)["reason"] == "ProfileNotFound"
    assert cluster.list("Deployment")


def test_an_invalid_profile_holds_new_revisions_and_a_started_one_continues() -> None:
    cluster = started(profile="small")
    offer(cluster, "small", defaults={"training": {"epoch": 3}})
    assert ready(cluster)["reason"] == "Preparing"
    cluster.edit(rerun="again")
    found = ready(cluster)
    assert found["reason"] == "ProfileInvalid"
    assert "FineTuneProfile small is not valid: spec.defaults.training.epoch" in found["message"]


def test_no_attempt_starts_while_limits_cannot_be_read() -> None:
    cluster = started(profile="small")
    PREPARED(cluster)
    offer(cluster, "small", defaults=LONGER, limits={"queues": {"allow": ["team-(a"]}})
    found = ready(cluster)
    assert found["reason"] == "NotAllowed"
    assert "the limits of FineTuneProfile small cannot be read" in found["message"]


def test_an_unschedulable_pod_names_the_card_of_the_profile() -> None:
    cluster = started(profile="small")
    (job,) = cluster.list("Job")
    target = resolve_target(
        cluster.present_job(),
        Ledger.parse(cluster.status["revisions"], cluster.status["ledgerVersion"]),
        cluster.config,
    )
    cause = placement.origin(target.config.gpu, target.resolved, {}, gpu=True)
    assert cause == "the card of profile small or the chart value gpu.products"
    assert "NVIDIA-L4" in json.dumps(job["spec"]["template"]["spec"]["affinity"])


def test_a_required_profile() -> None:
    cluster = Cluster()
    limits = cluster.config.policy.model_copy(update={"require_profile": True})
    cluster.config = cluster.config.model_copy(update={"policy": limits})
    found = ready(cluster)
    assert found["reason"] == "NotAllowed"
    assert found["message"] == (
        "spec.profile: set this field, because the chart value policy.requireProfile requires it."
    )
    offer(
        cluster,
        "small",
        limits={"maxGpuSeconds": 60},
        defaults={"runPolicy": {"maxGpuSeconds": 60}},
    )
    cluster.edit(profile="small")
    assert ready(cluster)["reason"] == "Preparing"


@pytest.mark.parametrize("named", [True, False])
def test_the_status_shows_the_profile_of_the_revision(named: bool) -> None:
    """Also the default one, and after it is no longer the default."""
    cluster = Cluster()
    offer(cluster, "usual", default=not named, defaults=LONGER)
    cluster.edit(**({"profile": "usual"} if named else {}))
    cluster.settle()
    assert cluster.status["profile"] == "usual"
    del cluster.profiles["usual"]
    cluster.settle()
    assert cluster.status["profile"] == "usual"


def test_a_job_without_a_profile_shows_none() -> None:
    cluster = Cluster()
    cluster.settle()
    assert "profile" not in cluster.status


INTERNAL: Thing = {"allow": [r"(.*\.)?corp\.example"]}


def hosts(cluster: Cluster, stage: str = "prepare") -> list[Thing]:
    """Return the limits on hosts in the request of a stage, in its order."""
    cluster.settle()
    (job,) = (each for each in cluster.list("Job") if f"-{stage}-" in each["metadata"]["name"])
    found = controllers.request_of(job).destinations
    every = [found.hosts, *found.narrower_hosts]
    return [each.model_dump(mode="json", exclude_defaults=True) for each in every]


def test_downloads_and_their_redirects_are_limited_to_the_hosts_of_the_profile() -> None:
    cluster = started()
    assert hosts(cluster) == [{"allow": [".*"]}]
    cluster = Cluster()
    offer(cluster, "small", limits={"hosts": INTERNAL})
    cluster.edit(profile="small")
    # An image of an earlier release knows one limit.
    assert hosts(cluster) == [INTERNAL]


def test_the_hosts_of_all_limits_apply() -> None:
    cluster = Cluster()
    policy = cluster.config.policy.model_copy(update={"hosts": Names(deny=("evil.example",))})
    cluster.config = cluster.config.model_copy(update={"policy": policy})
    offer(cluster, "a", default=True, limits={"hosts": INTERNAL})
    offer(cluster, "b", default=True, limits={"hosts": INTERNAL})
    offer(cluster, "c", default=True, limits={"queues": {"allow": ["a"]}})
    assert hosts(cluster) == [{"allow": [".*"], "deny": ["evil.example"]}, INTERNAL]


def started_by_an_earlier_release(cluster: Cluster, contract: int) -> None:
    """Let the trainer image of the present revision follow an earlier contract."""
    (record,), (configuration,) = cluster.status["revisions"], cluster.each("ConfigMap")
    settings = json.loads(record["frozen"]["operator"])
    settings["images"]["trainer"]["contract"] = contract
    text = json.dumps(settings)
    configuration["data"]["operator.json"] = documents.operator_file(text)
    digest = text_digest(documents.operator_file(text))
    record["frozen"] |= {"operator": text, "operatorDigest": digest}


def test_an_image_of_an_earlier_release_gets_one_limit_that_allows_no_more() -> None:
    """It rejects a request with a second one, and a revision keeps its image."""
    cluster = Cluster()
    shared = r"(.*\.)?corp\.example"
    of_chart = Names(allow=(shared, r"hub\.example", r".*\.org"), deny=("a",))
    of_profile: Thing = {"allow": [shared, r"data\.org", r".*\.hub\.example"], "deny": ["b"]}
    policy = cluster.config.policy.model_copy(update={"hosts": of_chart})
    cluster.config = cluster.config.model_copy(update={"policy": policy})
    offer(cluster, "small", limits={"hosts": of_profile})
    cluster.edit(profile="small")
    assert len(hosts(cluster)) == 2
    started_by_an_earlier_release(cluster, 2)
    cluster.remove(cluster.list("Job")[0])
    cluster.settle()
    (job,) = cluster.list("Job")
    argument = json.loads(job["spec"]["template"]["spec"]["containers"][0]["args"][0])
    assert argument["contract"] == 2
    assert "narrowerHosts" not in argument["destinations"]
    limit = Names.model_validate(argument["destinations"]["hosts"])
    assert limit.deny == ("a", "b")
    for host, allowed in {
        "x.corp.example": True,
        "data.org": True,
        "other.org": False,
        "hub.example": False,
        "x.hub.example": False,
    }.items():
        both = of_chart.permits(host) and Names.model_validate(of_profile).permits(host)
        assert limit.permits(host) is allowed is both
