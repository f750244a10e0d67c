"""The plan of a FineTuneEndpoint: the base, the pod, and what its conditions say."""

from typing import Any

import pytest
from tests.support.reconcile.endpoint_world import MANIFEST, SETTINGS, World

from finetune_api.policy.limits import Limits
from finetune_operator.actions import Create, Delete
from finetune_operator.manifests import egress
from finetune_operator.manifests.endpoints import base_job
from finetune_operator.reconcile.endpoints import plan as planner
from finetune_operator.revisions.sharing.settings import resolve


@pytest.fixture
def world() -> World:
    return World()


def kinds(world: World) -> list[str]:
    return sorted(kind for kind, _ in world.objects)


def container(world: World, name: str) -> dict[str, Any]:
    assert world.deployment is not None
    pod = world.deployment["spec"]["template"]["spec"]
    return next(each for each in pod["containers"] if each["name"] == name)


def argument(world: World, option: str, name: str = "gate") -> str:
    arguments = container(world, name)["args"]
    return str(arguments[arguments.index(option) + 1])


def test_the_base_is_prepared_before_anything_else(world: World) -> None:
    world.step()
    assert kinds(world) == ["Job", "NetworkPolicy", "PersistentVolumeClaim"]
    assert (world.reason, world.condition("BaseReady")["status"]) == ("PreparingBase", "False")
    assert world.condition("Reconciling")["status"] == "True"
    world.end_base()
    world.step()
    assert kinds(world) == [
        "ConfigMap", "Deployment", "Job", "NetworkPolicy", "NetworkPolicy",
        "PersistentVolumeClaim", "PodDisruptionBudget", "Service",
    ]  # fmt: skip
    assert world.status["base"]["manifest"] == MANIFEST
    assert (world.reason, world.condition("BaseReady")["status"]) == ("Starting", "True")


def test_an_endpoint_without_jobs_is_ready(world: World) -> None:
    world.prepare()
    world.serve()
    world.step()
    assert (world.condition("Ready")["status"], world.reason) == ("True", "Serving")
    assert "No job has published a model" in world.condition("Ready")["message"]
    assert (world.status["summary"], world.status["freeSlots"]) == ("0/0", 8)


def test_a_reconcile_without_news_changes_nothing(world: World) -> None:
    world.publish("a")
    world.prepare()
    world.serve()
    world.step()
    status, objects = world.status, {**world.objects}
    for _ in range(3):
        world.step()
    assert world.status == status
    assert world.objects == objects


def test_the_pod_follows_the_contract_of_the_gate(world: World) -> None:
    """The table in docs/development/shared-endpoint-gate.md."""
    world.spec["lora"] = {"maxAdapters": 6, "maxActive": 4, "maxRank": 24}
    world.spec["access"] = {"keysSecretRef": {"name": "keys"}}
    world.prepare()
    vllm, gate = container(world, "vllm"), container(world, "gate")
    assert "ports" not in vllm, "vLLM listens on a Unix socket only"
    socket = argument(world, "--uds", "vllm")
    assert socket == argument(world, "--socket")
    assert vllm["command"][:4] == ["/bin/sh", "-c", 'rm -f "$0" && exec "$@"', socket]
    assert "--host" not in vllm["args"]
    mounts = {each["mountPath"]: each for each in vllm["volumeMounts"]}
    of_gate = {each["mountPath"]: each for each in gate["volumeMounts"]}
    engine = mounts[socket.rpartition("/")[0]]
    assert engine["name"] == of_gate[socket.rpartition("/")[0]]["name"]
    copies = argument(world, "--copies")
    assert mounts[copies] == {
        "name": of_gate[copies]["name"],
        "mountPath": copies,
        "readOnly": True,
    }
    assert "readOnly" not in of_gate[copies]
    assert of_gate[argument(world, "--claim")]["readOnly"]
    modules = vllm["args"][vllm["args"].index("--lora-target-modules") + 1 :][:2]
    assert modules == ["q_proj", "v_proj"]
    assert argument(world, "--max-active") == "4"
    assert argument(world, "--max-loras", "vllm") == "5", "one is for the base"
    assert argument(world, "--max-adapters") == "6"
    assert int(argument(world, "--max-cpu-loras", "vllm")) >= 12
    assert argument(world, "--max-rank") == "24"
    assert argument(world, "--max-lora-rank", "vllm") == "32"
    assert int(argument(world, "--max-num-seqs", "vllm")) >= int(argument(world, "--capacity"))
    assert {"--enable-prompt-tokens-details", "--trust-request-chat-template"} <= {*vllm["args"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert vllm[probe]["httpGet"] == {"path": "/engine/health", "port": 9401}
    assert gate["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert gate["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert {"name": "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "value": "1"} in vllm["env"]
    assert argument(world, "--min-sequence") == str(world.status["wanted"]["sequence"])
    assert of_gate[argument(world, "--keys")]["readOnly"]
    assert argument(world, "--keys") not in mounts, "vLLM has no keys"
    assert argument(world, "--base-manifest") == MANIFEST


def test_arguments_of_the_chart_do_not_replace_the_contract() -> None:
    serving = SETTINGS.serving.model_copy(update={"args": ["--max-num-seqs", "2", "--max-loras=1"]})
    world = World(settings=SETTINGS.model_copy(update={"serving": serving}))
    world.prepare()
    arguments = container(world, "vllm")["args"]
    last = len(arguments) - 1 - arguments[::-1].index("--max-num-seqs")
    assert arguments[last + 1] == argument(world, "--capacity")
    assert arguments.index("--max-loras=1") < arguments.index("--max-loras")


def test_the_port_of_the_operator_is_closed_to_callers(world: World) -> None:
    world.spec["access"] = {"allowedNamespaces": ["apps"]}
    world.prepare()
    policy = world.find("NetworkPolicy", "shared-endpoint")["spec"]
    ports = {rule["ports"][0]["port"]: rule["from"] for rule in policy["ingress"]}
    label = "kubernetes.io/metadata.name"
    assert ports == {
        8000: [{"podSelector": {}}, {"namespaceSelector": {"matchLabels": {label: "apps"}}}],
        9401: [{"namespaceSelector": {"matchLabels": {label: "finetune-system"}}}],
    }
    assert policy["egress"] == egress.dns(SETTINGS)


def test_the_prepare_pod_alone_has_credentials_and_egress(world: World) -> None:
    world.spec["model"]["tokenSecretRef"] = {"name": "hf"}
    world.prepare()
    job = world.find("Job", "shared-finetune-base-1")["spec"]["template"]
    environment = job["spec"]["containers"][0]["env"]
    assert any(each["name"] == "MODEL_HF_TOKEN" for each in environment)
    assert "nvidia.com/gpu" not in str(job["spec"]["containers"][0]["resources"])
    assert "MODEL_HF_TOKEN" not in str(world.deployment)
    policy = world.find("NetworkPolicy", "shared-endpoint-base")["spec"]
    assert policy["podSelector"]["matchLabels"] == {
        "finetune.dev/endpoint": "shared",
        "finetune.dev/stage": "base",
    }
    assert policy["podSelector"]["matchLabels"].items() <= job["metadata"]["labels"].items()


def requested_cards(world: World) -> tuple[str, ...]:
    """Return the GPUs for which the pod of the base checks the memory."""
    return base_job.request(resolve(world.endpoint, world.settings)).cards


def test_memory_is_not_checked_with_arguments_that_the_estimate_does_not_know(
    world: World,
) -> None:
    products = SETTINGS.gpu.model_copy(update={"products": ["NVIDIA-A10G"]})
    world.settings = SETTINGS.model_copy(update={"gpu": products})
    assert requested_cards(world) == ("NVIDIA-A10G",)
    serving = SETTINGS.serving.model_copy(update={"args": ["--kv-cache-dtype=fp8"]})
    world.settings = world.settings.model_copy(update={"serving": serving})
    assert requested_cards(world) == ()


def test_a_failed_base_is_prepared_again_after_an_edit(world: World) -> None:
    world.step()
    world.end_base("failed", reason="ModelNotFound", message="hf://acme/base does not exist.")
    world.step()
    assert world.reason == "ModelNotFound"
    assert world.condition("Stalled")["status"] == "True"
    world.step()
    assert ("Job", "shared-finetune-base-2") not in world.objects
    world.spec["resources"] = {"prepare": {"limits": {"memory": "16Gi"}}}
    world.step()
    assert ("Job", "shared-finetune-base-2") in world.objects
    assert world.reason == "PreparingBase"
    world.end_base()
    world.step()
    assert world.condition("BaseReady")["status"] == "True"


def test_an_endpoint_that_does_not_fit_is_compared_again_after_an_edit(world: World) -> None:
    world.step()
    world.end_base("failed", reason="DoesNotFit", message="set lora.maxActive: 4")
    world.step()
    assert (world.reason, world.deployment) == ("DoesNotFit", None)
    world.spec["lora"] = {"maxActive": 4}
    world.step()
    assert ("Job", "shared-finetune-base-2") in world.objects


def test_a_complete_job_without_its_result_proves_nothing(world: World) -> None:
    world.step()
    world.end_base(artifacts={"manifest": MANIFEST})
    world.step()
    assert world.reason == "ResultMissing"
    assert world.deployment is None


def test_the_result_of_a_foreign_pod_does_not_count(world: World) -> None:
    world.step()
    world.end_base()
    world.pods[-1]["metadata"]["ownerReferences"][0]["uid"] = "another"
    world.step()
    assert world.reason == "ResultMissing"


def test_a_job_of_the_base_is_created_only_after_a_live_read(world: World) -> None:
    plan = world.plan()
    assert any(isinstance(each, Create) and each.object["kind"] == "Job" for each in plan.actions)
    needed = planner.confirmation(world.snapshot(), plan)
    assert needed.kinds >= {"Job", "Pod", "PersistentVolumeClaim"}


def test_a_lost_volume_is_prepared_again(world: World) -> None:
    world.publish("a")
    world.prepare()
    claim = world.find("PersistentVolumeClaim", "shared-endpoint")
    claim["metadata"]["deletionTimestamp"] = "2026-11-30T09:00:00Z"
    plan = world.step()
    assert [type(each) for each in plan.actions] == [Delete], "no pod keeps the volume"
    assert planner.confirmation(world.snapshot(), plan).cause == "delete"
    assert world.reason == "WaitingForVolume"
    del world.objects["PersistentVolumeClaim", "shared-endpoint"]
    world.step()
    assert world.reason == "PreparingBase"
    assert "jobs must publish their adapters again" in world.condition("Ready")["message"]
    assert ("Job", "shared-finetune-base-2") in world.objects
    assert "base" not in world.status


def test_a_lost_volume_has_one_writer_at_a_time(world: World) -> None:
    """The pod of an earlier attempt would mount the next claim, which has the same name."""
    world.step()
    first, second = ("Job", "shared-finetune-base-1"), ("Job", "shared-finetune-base-2")
    uid = world.find(*first)["metadata"]["uid"]
    claim = world.find("PersistentVolumeClaim", "shared-endpoint")
    world.step()
    del world.objects["PersistentVolumeClaim", "shared-endpoint"]
    plan = world.plan()
    (deleted,) = [each for each in plan.actions if isinstance(each, Delete)]
    assert deleted.object["metadata"]["uid"] == uid
    assert planner.confirmation(world.snapshot(), plan).cause == "delete"
    ending = world.find(*first)
    world.step()
    world.objects[first] = ending
    ending["metadata"]["deletionTimestamp"] = "2026-11-30T09:00:00Z"
    world.step()
    assert second not in world.objects, "its pod has not ended"
    assert ("PersistentVolumeClaim", "shared-endpoint") not in world.objects
    del world.objects[first]
    world.step()
    assert second in world.objects
    assert world.find("PersistentVolumeClaim", "shared-endpoint") is not claim
    world.end_base()
    world.step()
    assert world.condition("BaseReady")["status"] == "True"


def test_an_attempt_ends_with_the_volume_that_it_prepares(world: World) -> None:
    world.step()
    claim = world.find("PersistentVolumeClaim", "shared-endpoint")
    claim["metadata"]["deletionTimestamp"] = "2026-11-30T09:00:00Z"
    plan = world.step()
    assert [each.object["kind"] for each in plan.actions if isinstance(each, Delete)] == ["Job"]
    assert world.reason == "WaitingForVolume"


def test_the_volume_grows_and_never_shrinks(world: World) -> None:
    world.prepare()
    world.spec["storage"] = {"size": "200Gi"}
    world.step()
    claim = world.find("PersistentVolumeClaim", "shared-endpoint")
    assert claim["spec"]["resources"]["requests"]["storage"] == "200Gi"
    world.spec["storage"] = {"size": "10Gi"}
    world.step()
    assert claim["spec"]["resources"]["requests"]["storage"] == "200Gi"


def test_without_a_signing_key_nothing_starts() -> None:
    world = World(settings=SETTINGS.model_copy(update={"signing_key": None}))
    world.step()
    assert world.reason == "SigningKeyMissing"
    assert "provenance.signingKeySecret" in world.condition("Ready")["message"]
    assert not world.objects


def test_the_policy_of_the_chart_applies_to_endpoints() -> None:
    limits = Limits.model_validate({"sources": {"allow": ["hf://other/*"]}})
    world = World(settings=SETTINGS.model_copy(update={"policy": limits}))
    world.step()
    assert world.reason == "NotAllowed"
    assert "hf://acme/base" in world.condition("Ready")["message"]
    assert not world.objects


def test_limits_of_training_do_not_concern_endpoints() -> None:
    limits = Limits.model_validate(
        {"requireQueue": True, "requireProfile": True, "maxGpuSeconds": 60, "maxIdleSeconds": 60}
    )
    world = World(settings=SETTINGS.model_copy(update={"policy": limits}))
    world.step()
    assert world.reason == "PreparingBase"


def test_the_policy_can_require_api_keys() -> None:
    limits = Limits.model_validate({"requireApiKey": True})
    world = World(settings=SETTINGS.model_copy(update={"policy": limits}))
    world.step()
    assert world.reason == "NotAllowed"
    assert "spec.access.keysSecretRef: set this field" in world.condition("Ready")["message"]
    world.spec["access"] = {"keysSecretRef": {"name": "keys"}}
    world.step()
    assert world.reason == "PreparingBase"


def test_an_edit_that_changes_the_pod_raises_the_lowest_number(world: World) -> None:
    world.publish("a")
    world.prepare()
    first = argument(world, "--min-sequence")
    world.publish("b", "2")
    world.step()
    assert argument(world, "--min-sequence") == first, "other names are no reason to roll the pod"
    world.spec["maxModelLen"] = 4096
    world.step()
    assert argument(world, "--min-sequence") == str(world.status["wanted"]["sequence"]) > first


@pytest.mark.parametrize("reason", ["NotAllowed", "InvalidSpec"])
def test_names_are_removed_also_from_an_endpoint_that_is_stopped(world: World, reason: str) -> None:
    for name in "ab":
        world.publish(name)
    world.prepare()
    world.serve()
    world.step()
    before = world.wanted()
    assert before is not None
    if reason == "NotAllowed":
        limits = Limits.model_validate({"sources": {"allow": ["hf://other/*"]}})
        world.settings = SETTINGS.model_copy(update={"policy": limits})
    else:
        world.spec["lora"] = {"maxAdapters": -1}
    world.publish("a", "2")
    world.publish("c", "3")
    world.step()
    assert world.wanted() == before, "nothing is added or changed"
    del world.finetunejobs["b"]
    objects = {**world.objects}
    world.step()
    found = world.wanted()
    assert found is not None
    assert found.names == before.names[:1]
    assert found.sequence == world.status["wanted"]["sequence"] > before.sequence
    assert [each["name"] for each in world.status["models"]] == ["a"]
    assert world.reason == reason
    assert {key for key in objects if objects[key] != world.objects[key]} == {
        ("ConfigMap", "shared-endpoint")
    }
    status = world.status
    world.objects = objects
    world.step()
    assert world.wanted() == found, "the operator ended between the two writes"
    assert world.status == status


def test_a_list_that_users_have_changed_is_not_signed(world: World) -> None:
    for name in "abc":
        world.publish(name)
    world.prepare()
    earlier = world.find("ConfigMap", "shared-endpoint")["data"]
    del world.finetunejobs["a"]
    world.step()
    world.settings = SETTINGS.model_copy(
        update={"policy": Limits.model_validate({"sources": {"allow": ["hf://other/*"]}})}
    )
    for data in (earlier, {"wanted.json": "{}"}, {}):
        world.find("ConfigMap", "shared-endpoint")["data"] = data
        del world.finetunejobs["b"]
        assert not world.plan().actions
        world.publish("b")


def test_a_deleted_endpoint_creates_nothing(world: World) -> None:
    world.endpoint["metadata"]["deletionTimestamp"] = "2026-11-30T09:00:00Z"
    world.step()
    assert not world.objects


def test_a_pod_that_finds_no_node_is_explained(world: World) -> None:
    world.prepare()
    assert world.deployment is not None
    world.deployment["status"] = {"observedGeneration": 1, "availableReplicas": 0}
    world.pods.append(
        {
            "kind": "Pod",
            "metadata": {
                "name": "shared-finetune-endpoint-abc-x",
                "uid": "p",
                "labels": {"pod-template-hash": "abc"},
                "creationTimestamp": "2026-11-30T08:00:00Z",
                "ownerReferences": [
                    {
                        "kind": "ReplicaSet",
                        "name": "shared-finetune-endpoint-abc",
                        "uid": "r",
                        "controller": True,
                    }
                ],
            },
            "spec": {"containers": []},
            "status": {
                "phase": "Pending",
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
                    }
                ],
            },
        }
    )
    world.step()
    assert world.reason == "Unschedulable"
    assert "nvidia.com/gpu" in world.condition("Ready")["message"]


def test_an_error_keeps_what_serves(world: World) -> None:
    world.publish("a")
    world.prepare()
    world.serve()
    world.step()
    objects, models = {**world.objects}, world.status["models"]
    world.settings = SETTINGS.model_copy(update={"signing_key": None})
    world.step()
    assert world.reason == "SigningKeyMissing"
    assert world.condition("Serving")["status"] == "True"
    assert (world.objects, world.status["models"]) == (objects, models)


def test_a_base_that_vllm_does_not_serve_correctly_is_reported(world: World) -> None:
    world.publish("a")
    world.prepare()
    world.serve()
    world.step()
    assert world.deployment is not None
    # The pod is not ready, and nothing changes until vLLM restarts.
    world.deployment["status"] = {"observedGeneration": 1, "availableReplicas": 0}
    world.report(a="Proving")
    assert world.gate is not None
    failed = {"self_test": "failed: 5.6 nats", "self_test_failed": True}
    world.gate = world.gate.model_copy(update=failed)
    world.step()
    assert (world.condition("Stalled")["status"], world.reason) == ("True", "VerificationFailed")
    assert "failed: 5.6 nats. Delete the pod" in world.condition("Ready")["message"]
    world.gate = world.gate.model_copy(update={"boot": None, "self_test_failed": False})
    world.step()
    assert world.reason == "Starting"
