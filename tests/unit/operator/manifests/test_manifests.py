"""Invariants of all rendered children, above all of their security."""

import json
import re
from collections.abc import Iterator

import pytest
from tests.fakes.apiserver import CONFIG, NAME, SPEC, Thing
from tests.fakes.controllers import request_of
from tests.support.rendered import (
    MAXIMAL_CONFIG,
    MAXIMAL_SPEC,
    REPORTED,
    SETS,
    children,
    template,
)

from finetune_api.contracts.exitcodes import FINAL, ExitCode
from finetune_api.contracts.job_config import JobConfig
from finetune_api.contracts.ports import POD_UID_VARIABLE
from finetune_api.contracts.vllm_lora import reserved_rank
from finetune_api.crd.resources import NAME_MAX_LENGTH
from finetune_operator.manifests.gpu.devices import HIDDEN
from finetune_operator.manifests.pod import OFFLINE
from finetune_operator.objects import naming
from finetune_trainer.devices.device import REQUIRE_GPU
from finetune_verify.__main__ import parser

ALL = {name: children(*given) for name, given in SETS.items()}
LONG = "a" * NAME_MAX_LENGTH
ALL["long name"] = children(MAXIMAL_SPEC, MAXIMAL_CONFIG, LONG)
EACH = [
    pytest.param(thing, id=f"{name} {title}") for name in ALL for title, thing in ALL[name].items()
]
PODS = [
    pytest.param(title.removeprefix("job-"), template(thing), id=f"{name} {title}")
    for name in ALL
    for title, thing in ALL[name].items()
    if template(thing)
]
JOBS = [
    pytest.param(thing, id=f"{name} {title}")
    for name in ALL
    for title, thing in ALL[name].items()
    if thing["kind"] == "Job"
]
QUALIFIED = re.compile(
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?"
)
VALUE = re.compile(r"([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?")
GPU = "nvidia.com/gpu"


def containers(pod: Thing) -> Iterator[Thing]:
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        yield from pod["spec"].get(kind, ())


def references(pod: Thing) -> dict[str, Thing]:
    """Return the references to Secrets in the environment."""
    values = {name: each.get("valueFrom", {}) for name, each in env(pod).items()}
    return {
        name: value["secretKeyRef"] for name, value in values.items() if "secretKeyRef" in value
    }


def labels_of(thing: Thing) -> Iterator[dict[str, str]]:
    """Yield the labels of a child and those of its pods."""
    yield thing["metadata"]["labels"]
    if template(thing):
        yield template(thing)["metadata"]["labels"]


def env(pod: Thing) -> dict[str, Thing]:
    container, *_ = containers(pod)
    variables = {each["name"]: each for each in container["env"]}
    assert len(variables) == len(container["env"]), "duplicate name"
    return variables


@pytest.mark.parametrize(("stage", "pod"), PODS)
def test_pods_meet_the_restricted_standard(stage: str, pod: Thing) -> None:
    spec = pod["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & spec.keys()
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"sysctls", "seLinuxOptions", "windowsOptions"} & security.keys()
    for container in containers(pod):
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert own.keys() <= {"allowPrivilegeEscalation", "capabilities", "readOnlyRootFilesystem"}
        assert all("hostPort" not in port for port in container.get("ports", ()))
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "projected"}
    for volume in spec["volumes"]:
        assert volume.keys() - {"name"} <= allowed
        for source in volume.get("projected", {}).get("sources", ()):
            assert source.keys() == {"configMap"}, "no service account token"


@pytest.mark.parametrize(("stage", "pod"), PODS)
def test_pods_have_no_token_for_the_api_server(stage: str, pod: Thing) -> None:
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["enableServiceLinks"] is False
    assert stage == "prepare" or "serviceAccountName" not in pod["spec"]


@pytest.mark.parametrize(("stage", "pod"), PODS)
def test_only_train_and_serving_pods_have_a_gpu(stage: str, pod: Thing) -> None:
    container, *_ = containers(pod)
    needs = stage in ("train", "deployment")
    assert container["resources"]["limits"].get(GPU) == ("1" if needs else None)
    assert GPU not in container["resources"].get("requests", {})
    hidden = {name: env(pod).get(name, {}).get("value") for name in HIDDEN}
    assert hidden == (dict.fromkeys(HIDDEN) if needs else HIDDEN)
    assert env(pod).get(REQUIRE_GPU, {}).get("value") == ("true" if stage == "train" else None)


@pytest.mark.parametrize(("stage", "pod"), PODS)
def test_only_the_cpu_stages_have_a_read_only_root(stage: str, pod: Thing) -> None:
    container, *_ = containers(pod)
    expected = stage in ("prepare", "merge")
    assert container["securityContext"]["readOnlyRootFilesystem"] is expected


@pytest.mark.parametrize(("stage", "pod"), PODS)
def test_only_the_prepare_pod_references_tokens(stage: str, pod: Thing) -> None:
    tokens = references(pod)
    if stage == "deployment":
        assert tokens.keys() <= {"VLLM_API_KEY"}
        return
    if stage != "prepare" or not tokens:
        assert tokens == {}
        assert "hf-" not in json.dumps(pod)
        return
    assert tokens == {
        "MODEL_HF_TOKEN": {"name": "hf-model", "key": "model-token"},
        "DATASET_HF_TOKEN": {"name": "hf-dataset", "key": "token"},
        "EVALUATION_DATASET_HF_TOKEN": {"name": "hf-test", "key": "token"},
    }


@pytest.mark.parametrize("job", JOBS)
def test_the_trainer_knows_the_uid_of_its_pod(job: Thing) -> None:
    variable = env(template(job))[POD_UID_VARIABLE]
    assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.uid"}}


def test_the_prepare_pod_has_the_tokens_of_model_and_dataset() -> None:
    assert {"MODEL_HF_TOKEN", "DATASET_HF_TOKEN"} <= env(
        template(ALL["maximal"]["job-prepare"])
    ).keys()


@pytest.mark.parametrize("name", ALL)
def test_the_frozen_configuration_references_no_secret(name: str) -> None:
    data = ALL[name]["configuration"]["data"]
    assert "ecretRef" not in data["job.json"]
    assert "hf-" not in data["job.json"] + data["operator.json"]


@pytest.mark.parametrize(("stage", "pod"), PODS)
def test_all_pods_except_prepare_are_offline(stage: str, pod: Thing) -> None:
    values = {name: env(pod).get(name, {}).get("value") for name in (*OFFLINE, "HF_ENDPOINT")}
    if stage == "prepare":
        assert set(values.values()) <= {None, MAXIMAL_CONFIG.hub.endpoint}
    else:
        assert values == {**OFFLINE, "HF_ENDPOINT": None}


@pytest.mark.parametrize(("stage", "pod"), PODS)
def test_caches_are_in_the_scratch_volume(stage: str, pod: Thing) -> None:
    container, *_ = containers(pod)
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    everywhere = [mount for each in containers(pod) for mount in each["volumeMounts"]]
    assert {mount["name"] for mount in everywhere} == volumes.keys()
    assert "emptyDir" in volumes[mounts["/tmp"]["name"]]
    caches = {name: each["value"] for name, each in env(pod).items() if "CACHE" in name}
    caches |= {name: env(pod)[name]["value"] for name in ("HOME", "HF_HOME", "XDG_CONFIG_HOME")}
    assert all(path == "/tmp" or path.startswith("/tmp/") for path in caches.values()), caches


@pytest.mark.parametrize("thing", EACH)
def test_children_have_owner_name_and_labels(thing: Thing) -> None:
    meta = thing["metadata"]
    (owner,) = meta["ownerReferences"]
    assert owner == {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "name": meta["labels"][naming.JOB],
        "uid": "uid-1",
        "controller": True,
        "blockOwnerDeletion": True,
    }
    assert meta["namespace"] == "ns"
    assert NAME.fullmatch(meta["name"]), meta["name"]
    for labels in labels_of(thing):
        for key, value in labels.items():
            assert QUALIFIED.fullmatch(key), key
            assert VALUE.fullmatch(value), value
    assert meta["labels"]["app.kubernetes.io/managed-by"] == "finetune-operator"


@pytest.mark.parametrize("attempt", [1, 10, 99_999])
def test_the_longest_names_are_valid(attempt: int) -> None:
    for stage in ("prepare", "train", "merge"):
        name = naming.job_name(LONG, "0" * 8, stage, attempt)
        assert NAME.fullmatch(name), f"{len(name)} characters"


@pytest.mark.parametrize(
    "title", ["job-prepare", "job-train", "job-merge", "deployment", "volume", "service"]
)
def test_labels_of_the_spec_are_on_objects_that_cost_money(title: str) -> None:
    expected = MAXIMAL_SPEC["podMetadata"]["labels"].items()
    thing = ALL["maximal"][title]
    assert expected <= thing["metadata"]["labels"].items()
    if template(thing):
        assert expected <= template(thing)["metadata"]["labels"].items()


@pytest.mark.parametrize("job", JOBS)
def test_jobs_run_once_and_have_no_ttl(job: Thing) -> None:
    spec = job["spec"]
    assert (spec["completions"], spec["parallelism"]) == (1, 1)
    assert spec["podReplacementPolicy"] == "Failed"
    assert "ttlSecondsAfterFinished" not in spec
    assert spec["template"]["spec"]["restartPolicy"] == "Never", "required by podFailurePolicy"
    final, disrupted = spec["podFailurePolicy"]["rules"]
    (container,) = containers(spec["template"])
    assert final == {
        "action": "FailJob",
        "onExitCodes": {
            "containerName": container["name"],
            "operator": "In",
            # The code of publishing is in its own Jobs only, or Jobs of earlier versions differ.
            "values": sorted({*FINAL} - {ExitCode.PUBLISH_FAILED}),
        },
    }
    assert disrupted["action"] == "Ignore"
    assert {0, 1, 75, 143}.isdisjoint(final["onExitCodes"]["values"])


@pytest.mark.parametrize("name", ALL)
def test_references_between_children_resolve(name: str) -> None:
    made = ALL[name]
    volume, configuration = (made[each]["metadata"]["name"] for each in ("volume", "configuration"))
    for title in pods_among(made):
        pod = template(made[title])["spec"]
        volumes = {each["name"]: each for each in pod["volumes"]}
        assert volumes["work"]["persistentVolumeClaim"]["claimName"] == volume
        if title != "deployment":
            sources = volumes["config"]["projected"]["sources"]
            assert sources[0]["configMap"]["name"] == configuration
    labels = template(made["deployment"])["metadata"]["labels"].items()
    assert made["deployment"]["spec"]["selector"]["matchLabels"].items() <= labels
    assert made["service"]["spec"]["selector"].items() <= labels
    server, verifier = containers(template(made["deployment"]))
    assert verifier["readinessProbe"]["httpGet"]["port"] == verifier["ports"][0]["name"]
    ports = {port["name"] for port in server["ports"]}
    assert {each["targetPort"] for each in made["service"]["spec"]["ports"]} <= ports
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[probe]["httpGet"]["port"] in ports
    build = made["deployment"]["metadata"]["labels"][naming.BUILD]
    merged = {"/model": f"merged-{build}"} if "job-merge" in made else None
    mounts = [mount for mount in server["volumeMounts"] if mount["name"] == "work"]
    assert all(mount["readOnly"] for mount in mounts)
    sub_paths = {mount["mountPath"]: mount["subPath"] for mount in mounts}
    assert sub_paths == (merged or {"/model": "base", "/adapter": "adapter"})


def pods_among(made: dict[str, Thing]) -> list[str]:
    """Return the titles of the children that have pods, in the order of the stages."""
    titles = ("job-prepare", "job-train", "job-merge", "deployment")
    return [title for title in titles if title in made]


@pytest.mark.parametrize("name", ALL)
def test_the_frozen_configuration_is_valid_for_the_trainer(name: str) -> None:
    document = JobConfig.model_validate_json(ALL[name]["configuration"]["data"]["job.json"])
    assert document.revision == ALL[name]["configuration"]["metadata"]["labels"][naming.REVISION]
    assert (document.training.epochs is None) != (document.training.max_steps is None)
    assert ALL[name]["configuration"]["immutable"] is True


def by_name(*namespaces: str) -> Thing:
    """Return the peer that selects namespaces."""
    key = "kubernetes.io/metadata.name"
    if len(namespaces) == 1:
        return {"namespaceSelector": {"matchLabels": {key: namespaces[0]}}}
    expression = {"key": key, "operator": "In", "values": list(namespaces)}
    return {"namespaceSelector": {"matchExpressions": [expression]}}


def selects(policy: Thing, labels: dict[str, str]) -> bool:
    """Report whether a policy selects pods with these labels."""
    selector = policy["spec"]["podSelector"]
    (expression,) = selector["matchExpressions"]
    assert expression["operator"] == "In"
    return bool(
        selector["matchLabels"].items() <= labels.items()
        and labels.get(expression["key"]) in expression["values"]
    )


@pytest.mark.parametrize("name", ALL)
def test_each_pod_has_one_policy_and_only_prepare_has_egress(name: str) -> None:
    made = ALL[name]
    policies = {title: thing for title, thing in made.items() if title.startswith("policy-")}
    policies_of: dict[str, list[str]] = {}
    for title in pods_among(made):
        labels = template(made[title])["metadata"]["labels"]
        policies_of[title] = [each for each, policy in policies.items() if selects(policy, labels)]
    policy_of = {"job-prepare": "policy-prepare", "deployment": "policy-serve"}
    assert policies_of == {
        title: [policy_of.get(title, "policy-work")] for title in pods_among(made)
    }
    for policy in policies.values():
        assert sorted(policy["spec"]["policyTypes"]) == ["Egress", "Ingress"]
        assert all(rule["to"] for rule in policy["spec"]["egress"]), (
            "a rule without peers would allow all destinations"
        )
        for rule in policy["spec"]["ingress"]:
            assert rule["from"], "an empty list would admit all clients"
            assert rule["ports"]
    assert policies["policy-work"]["spec"]["egress"] == []
    (dns,) = policies["policy-serve"]["spec"]["egress"]
    assert {port["port"] for port in dns["ports"]} == {53, 5353}
    assert dns in policies["policy-prepare"]["spec"]["egress"]


@pytest.mark.parametrize(
    ("name", "callers"),
    [
        ("minimal", [{"podSelector": {}}]),
        (
            "maximal",
            [{"podSelector": {}}, by_name("batch", "web"), by_name("monitoring", "tracing")],
        ),
    ],
)
def test_the_endpoint_admits_its_own_and_the_allowed_namespaces(
    name: str, callers: list[Thing]
) -> None:
    (rule, _) = ALL[name]["policy-serve"]["spec"]["ingress"]
    assert rule == {"from": callers, "ports": [{"protocol": "TCP", "port": 8000}]}


def test_startup_and_shutdown_limits_fit_the_model() -> None:
    for name, seconds in (("maximal", 300 + 642), ("long name", 300 + 642)):
        deployment = ALL[name]["deployment"]["spec"]
        server, *_ = containers(deployment["template"])
        probe = server["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] == seconds
        assert seconds < deployment["progressDeadlineSeconds"]
        pre_stop = server["lifecycle"]["preStop"]["sleep"]["seconds"]
        drain = int(argument(server, "--shutdown-timeout"))
        assert pre_stop + drain < deployment["template"]["spec"]["terminationGracePeriodSeconds"]


def argument(container: Thing, name: str) -> str:
    """Return the value of a command-line argument that occurs once."""
    assert container["args"].count(name) == 1
    return str(container["args"][container["args"].index(name) + 1])


def test_adapter_mode_loads_base_and_adapter() -> None:
    server, *_ = containers(template(ALL["adapter"]["deployment"]))
    assert argument(server, "--served-model-name") == "demo-base"
    assert argument(server, "--lora-modules") == "demo=/adapter"
    assert argument(server, "--max-lora-rank") == "32", "the smallest that holds 24"
    assert argument(server, "--dtype") == "bfloat16"
    assert argument(server, "--chat-template") == "/adapter/chat_template.jinja"
    assert "--enable-lora" in server["args"]
    assert argument(server, "--max-loras") == "2", "the last slot stays empty"
    at = server["args"].index("--lora-target-modules")
    assert server["args"][at + 1 : at + 3] == ["down_proj", "q_proj"]
    merged, *_ = containers(template(ALL["maximal"]["deployment"]))
    assert not {"--enable-lora", "--chat-template"} & set(merged["args"])


@pytest.mark.parametrize("reported", [None, ["q_proj", "--api-key"], "q_proj", [""]])
def test_pods_of_an_adapter_without_known_modules_keep_their_arguments(
    reported: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier trainer image reports none; a compromised pod may report an option of vLLM."""
    monkeypatch.setitem(REPORTED, "train", {"adaptedModules": reported} if reported else {})
    server, *_ = containers(template(children(*SETS["adapter"])["deployment"]))
    assert "--enable-lora" in server["args"]
    assert not {"--max-loras", "--lora-target-modules", "--api-key"} & set(server["args"])


@pytest.mark.parametrize(("r", "rank"), [(1, 1), (2, 8), (8, 8), (9, 16), (257, 320), (512, 512)])
def test_the_lora_rank_is_the_smallest_that_vllm_accepts(r: int, rank: int) -> None:
    assert reserved_rank(r) == rank


def test_the_api_key_is_a_reference_to_a_secret() -> None:
    for container in containers(template(ALL["maximal"]["deployment"])):
        (key,) = [each for each in container["env"] if each["name"] == "VLLM_API_KEY"]
        assert key["valueFrom"] == {"secretKeyRef": {"name": "support-api", "key": "key"}}


@pytest.mark.parametrize(
    ("name", "model", "mode", "dtype"),
    [
        ("minimal", "demo", "merged", "auto"),
        ("maximal", "acme/support", "merged", "bfloat16"),
        ("adapter", "demo", "adapter", "bfloat16"),
    ],
)
def test_the_verify_container_matches_the_served_model(
    name: str, model: str, mode: str, dtype: str
) -> None:
    deployment = ALL[name]["deployment"]
    _, verifier = containers(template(deployment))
    image = MAXIMAL_CONFIG.images.operator if name == "maximal" else "registry/operator:1"
    assert (verifier["image"], verifier["command"]) == (image, ["python", "-m", "finetune_verify"])
    assert argument(verifier, "--build") == deployment["metadata"]["labels"][naming.BUILD]
    assert argument(verifier, "--model") == model
    assert (argument(verifier, "--mode"), argument(verifier, "--dtype")) == (mode, dtype)
    assert all(mount["readOnly"] for mount in verifier["volumeMounts"])
    assert verifier["resources"]["requests"] == {"cpu": "10m", "memory": "64Mi"}
    assert GPU not in verifier["resources"]["limits"]
    options = parser().parse_args(verifier["args"])
    assert (options.endpoint, options.port) == ("http://127.0.0.1:8000", 9401)


def test_a_dataset_in_a_configmap_is_mounted_only_for_prepare() -> None:
    made = ALL["chart-defaults"]
    mounted = {
        "configMap": {
            "name": "rows",
            "items": [{"key": "rows.jsonl", "path": "dataset/rows.jsonl"}],
        }
    }
    for title in ("job-prepare", "job-train", "job-merge"):
        volumes = {each["name"]: each for each in template(made[title])["spec"]["volumes"]}
        assert (mounted in volumes["config"]["projected"]["sources"]) == (title == "job-prepare")


def test_max_gpu_seconds_is_in_the_request_of_train() -> None:
    assert request_of(ALL["maximal"]["job-train"]).max_gpu_seconds == 86400
    assert request_of(children(SPEC, MAXIMAL_CONFIG)["job-train"]).max_gpu_seconds is None


def test_only_the_train_job_has_labels_for_kueue() -> None:
    own = {"kueue.x-k8s.io/queue-name": "gpu-queue", "kueue.x-k8s.io/priority-class": "research"}
    queued = [
        (title, {key: value for key, value in labels.items() if "kueue" in key})
        for title, thing in ALL["maximal"].items()
        for labels in labels_of(thing)
    ]
    assert [labeled for labeled in queued if labeled[1]] == [("job-train", own)]


def test_without_a_queue_name_there_are_no_labels_for_kueue() -> None:
    assert "kueue" not in json.dumps([*ALL["minimal"].values(), *ALL["chart-defaults"].values()])


SOURCES: Thing = {
    "model": {
        "source": "pvc://models/llama",
    },
    "dataset": {
        "source": "s3://bucket/rows",
        "format": "alpaca",
        "s3": {"region": "eu-central-1", "secretRef": {"name": "store"}},
        "caConfigMapRef": {"name": "internal", "key": "root.pem"},
    },
    "storage": {"baseCache": {"claimName": "models", "subPath": "hf/hub"}},
    "access": {"serviceAccountName": "reads-s3"},
}


EVALUATION_DATASET: Thing = {
    **SPEC,
    "evaluation": {
        "dataset": {
            "source": "s3://bucket/questions",
            "format": "alpaca",
            "s3": {"region": "eu-north-1", "secretRef": {"name": "hidden"}},
            "caConfigMapRef": {"name": "private", "key": "root.pem"},
        }
    },
}


def test_only_prepare_has_access_to_the_evaluation_dataset() -> None:
    made = children(EVALUATION_DATASET, CONFIG)
    pod = template(made["job-prepare"])
    variables = env(pod)
    assert variables["EVALUATION_DATASET_AWS_REGION"]["value"] == "eu-north-1"
    assert variables["EVALUATION_DATASET_AWS_ACCESS_KEY_ID"]["valueFrom"]["secretKeyRef"] == {
        "name": "hidden",
        "key": "AWS_ACCESS_KEY_ID",
    }
    (configuration,) = [v["projected"] for v in pod["spec"]["volumes"] if v["name"] == "config"]
    item = {"key": "root.pem", "path": "ca/evaluation.dataset.crt"}
    assert {"configMap": {"name": "private", "items": [item]}} in configuration["sources"]
    frozen = json.loads(made["configuration"]["data"]["job.json"])
    assert frozen["evaluationDataset"]["source"] == "s3://bucket/questions"
    assert "hidden" not in json.dumps(frozen)
    assert "private" not in json.dumps(frozen)
    for title in ("job-train", "job-merge", "deployment"):
        text = json.dumps(template(made[title]))
        assert "EVALUATION_DATASET" not in text
        assert "private" not in text


def test_job_file_has_the_configuration_of_a_dataset_only_if_it_is_set() -> None:
    """Without it, an earlier version wrote the same file, and its trainer reads no other."""

    def frozen(**spec: object) -> Thing:
        made = children({"model": SPEC["model"], **spec}, CONFIG)
        document: Thing = json.loads(made["configuration"]["data"]["job.json"])
        return document

    rows = {"source": "hf://org/data", "format": "alpaca"}
    test = {"evaluation": {"dataset": {**rows, "split": "test"}}}
    found = frozen(dataset=rows, **test)
    assert "config" not in found["dataset"] | found["evaluationDataset"]
    test["evaluation"]["dataset"]["config"] = "socratic"
    found = frozen(dataset={**rows, "config": "main"}, **test)
    assert (found["dataset"]["config"], found["evaluationDataset"]["config"]) == (
        "main",
        "socratic",
    )
    several = [{"name": "a", **rows}, {"name": "b", **rows, "config": "main"}]
    first, second = frozen(datasets=several)["datasets"]
    assert "config" not in first
    assert second["config"] == "main"


def test_only_prepare_has_the_login_for_the_registry_of_the_model() -> None:
    access = {"oci": {"secretRef": {"name": "hidden"}}, "caConfigMapRef": {"name": "private"}}
    model = {"source": "oci://registry.example.com/llama:v1", **access}
    made = children({**SPEC, "model": model}, CONFIG)
    pod = template(made["job-prepare"])
    assert env(pod)["MODEL_DOCKER_CONFIG_JSON"]["valueFrom"]["secretKeyRef"] == {
        "name": "hidden",
        "key": ".dockerconfigjson",
    }
    (configuration,) = [v["projected"] for v in pod["spec"]["volumes"] if v["name"] == "config"]
    item = {"key": "ca.crt", "path": "ca/model.crt"}
    assert {"configMap": {"name": "private", "items": [item]}} in configuration["sources"]
    frozen = json.loads(made["configuration"]["data"]["job.json"])
    assert frozen["model"]["source"] == "oci://registry.example.com/llama:v1"
    assert "oci" not in frozen["model"]
    for title in ("job-train", "job-merge", "deployment"):
        text = json.dumps(template(made[title]))
        assert "private" not in text
        assert "DOCKER_CONFIG" not in text
    assert (
        "oci"
        not in json.loads(children(SPEC, CONFIG)["configuration"]["data"]["job.json"])["model"]
    ), "an earlier image reads no job.json with an unknown field"


def test_only_prepare_has_access_to_the_adapter_that_the_training_continues_from() -> None:
    start: Thing = {
        "source": "oci://registry.example.com/a:v1",
        "oci": {"secretRef": {"name": "hidden"}},
        "caConfigMapRef": {"name": "private", "key": "root.pem"},
    }
    made = children({**SPEC, "training": {"startFrom": start}}, CONFIG)
    pod = template(made["job-prepare"])
    variables = env(pod)
    assert variables["TRAINING_STARTFROM_DOCKER_CONFIG_JSON"]["valueFrom"]["secretKeyRef"] == {
        "name": "hidden",
        "key": ".dockerconfigjson",
    }
    (configuration,) = [v["projected"] for v in pod["spec"]["volumes"] if v["name"] == "config"]
    item = {"key": "root.pem", "path": "ca/training.startFrom.crt"}
    assert {"configMap": {"name": "private", "items": [item]}} in configuration["sources"]
    frozen = json.loads(made["configuration"]["data"]["job.json"])
    assert frozen["training"]["startFrom"] == {
        "source": "oci://registry.example.com/a:v1",
        "revision": None,
        "s3": {"endpoint": None},
    }
    for title in ("job-train", "job-merge", "deployment"):
        text = json.dumps(template(made[title]))
        assert "TRAINING_STARTFROM" not in text
        assert "private" not in text
    claim = {"source": "pvc://adapters/a"}
    pod = template(children({**SPEC, "training": {"startFrom": claim}}, CONFIG)["job-prepare"])
    claims = [v for v in pod["spec"]["volumes"] if v["name"].startswith("source-")]
    assert claims[0]["persistentVolumeClaim"] == {"claimName": "adapters", "readOnly": True}
    plain = json.loads(children(SPEC, CONFIG)["configuration"]["data"]["job.json"])
    assert "startFrom" not in plain["training"], "an earlier image knows no such field"


@pytest.mark.parametrize(
    ("source", "mounted"),
    [
        (
            "pvc://questions/test.jsonl",
            {"name": "source-0", "mountPath": "/sources/questions", "readOnly": True},
        ),
        (
            "configmap://questions/test.jsonl",
            {
                "configMap": {
                    "name": "questions",
                    "items": [{"key": "test.jsonl", "path": "evaluation.dataset/test.jsonl"}],
                }
            },
        ),
    ],
)
def test_an_evaluation_dataset_in_a_claim_or_configmap_is_mounted(
    source: str, mounted: Thing
) -> None:
    spec = {**SPEC, "evaluation": {"dataset": {"source": source, "format": "alpaca"}}}
    pod = template(children(spec, CONFIG)["job-prepare"])
    (container,) = containers(pod)
    (configuration,) = [v["projected"] for v in pod["spec"]["volumes"] if v["name"] == "config"]
    assert mounted in [*container["volumeMounts"], *configuration["sources"]]


def test_only_prepare_has_access_to_the_sources() -> None:
    made = children(SOURCES, MAXIMAL_CONFIG)
    pod = template(made["job-prepare"])
    (container,) = containers(pod)
    assert pod["spec"]["serviceAccountName"] == "reads-s3"
    claims = [v for v in pod["spec"]["volumes"] if v["name"].startswith("source-")]
    assert claims == [
        {
            "name": "source-0",
            "persistentVolumeClaim": {"claimName": "models", "readOnly": True},
        }
    ], "a claim is mounted once"
    mounts = [m for m in container["volumeMounts"] if m["name"] == "source-0"]
    assert mounts == [{"name": "source-0", "mountPath": "/sources/models", "readOnly": True}]
    assert references(pod) == {
        f"DATASET_{key}": {"name": "store", "key": key} | ({"optional": True} if spare else {})
        for key, spare in (
            ("AWS_ACCESS_KEY_ID", False),
            ("AWS_SECRET_ACCESS_KEY", False),
            ("AWS_SESSION_TOKEN", True),
        )
    }
    assert env(pod)["DATASET_AWS_REGION"]["value"] == "eu-central-1"
    assert env(pod)["FINETUNE_BASE_CACHE"]["value"] == "/sources/models/hf/hub"
    (configuration,) = [v["projected"] for v in pod["spec"]["volumes"] if v["name"] == "config"]
    assert configuration["sources"][1] == {
        "configMap": {"name": "internal", "items": [{"key": "root.pem", "path": "ca/dataset.crt"}]}
    }
    frozen = made["configuration"]["data"]["job.json"]
    assert "store" not in frozen
    assert "internal" not in frozen
    for title in ("job-train", "job-merge", "deployment"):
        text = json.dumps(template(made[title]))
        assert "serviceAccountName" not in text
        assert not any(word in text for word in ("/sources", "store", "internal", "BASE_CACHE"))
