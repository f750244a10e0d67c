"""Admission and operator apply the same limits.

Whatever admission rejects, the operator rejects. Whatever the operator rejects in a written field,
admission rejects. The limits of this test restrict every field. Admission also checks the rights of
the user; here the user is the administrator.
"""

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.integration import policy
from tests.integration.limits import BASE, CASES, completed, edited
from tests.support.api_server.controlplane import ControlPlane, wait_until
from tests.support.patterns import PATTERNS, VALUES

from finetune_api.defaulting import builtin_defaults, resolve
from finetune_api.layering import Path, value_at
from finetune_api.policy.check import violations
from finetune_api.policy.fields import API_KEY, GPU_SECONDS, IDLE_SECONDS, QUEUE
from finetune_api.policy.limits import FIELDS, Limits
from finetune_api.policy.patterns import matches

Spec = dict[str, Any]
LIMITS: Spec = {
    "priorityClasses": {"allow": ["(batch|system)-.*"], "deny": ["system-.*"]},
    "workloadPriorityClasses": {"allow": ["low|batch-.+"], "deny": []},
    "queues": {"allow": ["team-[a-c]"], "deny": ["team-b"]},
    "requireQueue": True,
    "requireApiKey": True,
    "requireProfile": True,
    "nodeSelectors": {"allow": [r"example\.com/.*", "pool=[^x]+"], "deny": [".*=bad"]},
    "tolerations": {"allow": [r"nvidia\.com/gpu(=.*)?", "dedicated=team-.*"], "deny": ["x=?"]},
    "gpuStageResources": {"allow": ["cpu", "memory", "rdma/.*"], "deny": ["rdma/bad"]},
    "serviceAccounts": {"allow": ["robot-[0-9]+"], "deny": []},
    "secrets": {"allow": ["finetune-.*"], "deny": [".*-admin"]},
    "configMaps": {"allow": ["rows|finetune-.*"], "deny": []},
    "claims": {"allow": ["data|finetune-.*"], "deny": []},
    "sources": {
        "allow": ["hf://acme/.*", "(https|s3|pvc|configmap|oci)://.*"],
        "deny": [".*/evil"],
    },
    "hosts": {"allow": [r"(.*\.)?example\.com"], "deny": [r"evil\.example\.com"]},
    "publishDestinations": {
        "allow": [
            r"oci://registry\.example\.com/.*",
            "(s3|https)://(minio:9000/)?models/.*",
            "hf://acme/.*",
            r"mlflow\+https://mlflow\.example\.com(/.*)?",
        ],
        "deny": [".*/evil"],
    },
    "podLabels": {"allow": [r"example\.com/.*"], "deny": [r"example\.com/bad"]},
    "maxReplicas": 3,
    "maxGpuSeconds": 3600,
    "maxSequenceLength": 2048,
    "maxIdleSeconds": 3600,
}
NAMES = (
    "batch-a", "system-node-critical", "low", "team-a", "team-b", "team-d", "robot-7",
    "robot-x", "finetune-a", "finetune-admin", "rows", "data", "a.b",
)  # fmt: skip
SOURCES = (
    "hf://acme/rows", "hf://acme/evil", "hf://other/rows", "pvc://data/rows", "pvc://finetune-x",
    "pvc://other/rows", "configmap://rows/a.jsonl", "configmap://other/a.jsonl",
    "https://data.example.com/SHA256SUMS", "https://EVIL.example.com./SHA256SUMS",
    "https://Example.com:8443/a/SHA256SUMS", "https://example.org/SHA256SUMS",
    "https://example.com.attacker.io/SHA256SUMS", "s3://bucket/a", "s3://bucket/evil",
    "oci://registry.example.com/rows:v1", "oci://evil.example.com:5000/rows",
    "oci://registry.example.org/rows:v1", "oci://registry.example.com/models/evil",
)  # fmt: skip
ENDPOINTS = (
    "https://s3.example.com", "http://minio.example.org:9000/", "https://evil.EXAMPLE.com",
)  # fmt: skip
LABELS = {"example.com/a": "1", "example.com/bad": "1", "pool": "a", "app": "x", "a.b/c": "bad"}
SHARED_SERVING = {"mode": "shared", "endpointRef": {"name": "shared"}}
RESOURCES = ("cpu", "memory", "hugepages-2Mi", "rdma/hca", "rdma/bad", "nvidia.com/mig-1g.5gb")


def test_limits_of_the_test_restrict_every_field() -> None:
    assert LIMITS.keys() == FIELDS.keys()
    differing = [
        alias for alias, name in FIELDS.items() if getattr(LIMITED, name) == getattr(Limits(), name)
    ]
    assert differing == []


LIMITED = Limits.model_validate(LIMITS)
NAME = st.sampled_from(NAMES)
REFERENCE = st.fixed_dictionaries({"name": NAME})
LABEL_MAP = st.dictionaries(
    st.sampled_from(sorted(LABELS)), st.sampled_from(["1", "bad", "x", ""]), max_size=3
)
TOLERATION = st.sampled_from(
    [
        {"operator": "Exists"},
        {"key": "nvidia.com/gpu", "operator": "Exists"},
        {"key": "nvidia.com/gpu"},
        {"key": "dedicated", "value": "team-a", "effect": "NoSchedule"},
        {"key": "dedicated", "operator": "Exists"},
        {"key": "x"},
    ]
)
PLACEMENT = st.fixed_dictionaries(
    {}, optional={"nodeSelector": LABEL_MAP, "tolerations": st.lists(TOLERATION, max_size=3)}
)
AMOUNTS = st.dictionaries(st.sampled_from(RESOURCES), st.just("1"), max_size=3)
REQUIREMENTS = st.fixed_dictionaries({}, optional={"requests": AMOUNTS, "limits": AMOUNTS})


@st.composite
def sources(draw: st.DrawFn, *, model: bool, start: bool = False) -> Spec:
    """Draw a model, an adapter or a dataset, with the fields that apply to its source."""
    if start and draw(st.booleans()):
        access = {"tokenSecretRef": REFERENCE, "caConfigMapRef": REFERENCE}
        named = {"job": st.fixed_dictionaries({"name": NAME})}
        job: Spec = draw(st.fixed_dictionaries(named, optional=access))
        return job
    excluded = ("configmap", "https") if start else ("configmap",) if model else ("oci",)
    source = draw(st.sampled_from(SOURCES).filter(lambda each: not each.startswith(excluded)))
    found: Spec = {"source": source}
    scheme = source.split(":")[0]
    others: dict[str, dict[str, st.SearchStrategy[Any]]] = {
        "hf": {"tokenSecretRef": REFERENCE},
        "https": {"tokenSecretRef": REFERENCE, "caConfigMapRef": REFERENCE},
        "oci": {
            "caConfigMapRef": REFERENCE,
            "oci": st.fixed_dictionaries({"secretRef": REFERENCE}),
        },
        "s3": {
            "caConfigMapRef": REFERENCE,
            "s3": st.fixed_dictionaries(
                {}, optional={"secretRef": REFERENCE, "endpoint": st.sampled_from(ENDPOINTS)}
            ),
        },
    }
    if scheme == "https":
        found["sha256"] = "0" * 64
    if not model:
        found["format"] = "text"
    return {**found, **draw(st.fixed_dictionaries({}, optional=others.get(scheme, {})))}


def targets(place: str, address: dict[str, Any]) -> st.SearchStrategy[Spec]:
    """Draw an entry of publish. address: the strategies of the fields that name its place."""
    secret = "tokenSecretRef" if place == "huggingFace" else "secretRef"
    references = {secret: REFERENCE, "caConfigMapRef": REFERENCE}
    optional = {name: each for name, each in address.items() if name == "endpoint"}
    required = {name: each for name, each in address.items() if name != "endpoint"}
    return st.fixed_dictionaries(
        {
            "name": st.sampled_from("ab"),
            "what": st.sampled_from(["adapter", "merged"]),
            place: st.fixed_dictionaries(required, optional={**references, **optional}),
        }
    )


REPOSITORIES = ("registry.example.com/a", "registry.example.com/evil", "other.example:5000/a")
BUCKETS = ("s3://models/a", "s3://models/evil", "s3://other/a")
SERVERS = ("https://minio:9000", "http://minio:9000", "https://evil.example.com")
PUBLISHED = st.lists(
    targets("oci", {"repository": st.sampled_from(REPOSITORIES)})
    | targets("huggingFace", {"repo": st.sampled_from(("acme/a", "acme/evil", "other/a"))})
    | targets("s3", {"uri": st.sampled_from(BUCKETS), "endpoint": st.sampled_from(SERVERS)}),
    max_size=2,
    unique_by=lambda each: each["name"],
)
TRACKED = st.fixed_dictionaries(
    {
        "mlflow": st.fixed_dictionaries(
            {
                "uri": st.sampled_from(
                    ("https://mlflow.example.com/a", "https://mlflow.example.com/evil", "http://a")
                )
            },
            optional={"secretRef": REFERENCE, "caConfigMapRef": REFERENCE},
        )
    }
)
OPTIONAL: dict[str, st.SearchStrategy[Any]] = {
    "publish": PUBLISHED,
    "tracking": TRACKED,
    "priorityClassName": NAME,
    "workloadPriorityClassName": NAME,
    "placement": PLACEMENT,
    "podMetadata": st.fixed_dictionaries({"labels": LABEL_MAP}),
    "access": st.fixed_dictionaries({}, optional={"serviceAccountName": NAME}),
    "resources": st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("prepare", "train", "merge", "publish", "serve"), REQUIREMENTS)
    ),
    "serving": st.fixed_dictionaries(
        {},
        optional={
            "enabled": st.booleans(),
            "placement": PLACEMENT,
            "apiKeySecretRef": REFERENCE,
            "replicas": st.integers(0, 5),
            "idle": st.sampled_from([{"afterSeconds": seconds} for seconds in (60, 3600, 3601)]),
        },
    )
    | st.just(SHARED_SERVING),
    "training": st.fixed_dictionaries(
        {}, optional={"sequenceLength": st.sampled_from([64, 2048, 2049])}
    ),
    "storage": st.just({}),
    "evaluation": st.just({}),
}
REQUIRED = {
    "queueName": NAME,
    "runPolicy": st.sampled_from([{}, *({"maxGpuSeconds": n} for n in (60, 3600, 3601))]),
}


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """Draw a valid spec. Most fields are at their allowed values or missing."""
    spec = copy.deepcopy(BASE)
    others = (
        "model",
        "start",
        "dataset",
        "datasets",
        "evaluation dataset",
        "cache",
        "no queue",
        "no profile",
    )
    choices = [*OPTIONAL, *REQUIRED, *others]
    for choice in draw(st.lists(st.sampled_from(choices), max_size=3, unique=True)):
        match choice:
            case "model" | "dataset":
                spec[choice] = draw(sources(model=choice == "model"))
            case "start":
                spec["training"] = {"startFrom": draw(sources(model=True, start=True))}
            case "datasets":
                several = draw(st.lists(sources(model=False), min_size=1, max_size=2))
                spec["datasets"] = [
                    {"name": f"rows-{index}", **each} for index, each in enumerate(several)
                ]
            case "evaluation dataset":
                spec["evaluation"] = {"dataset": draw(sources(model=False))}
            case "cache":
                spec.setdefault("storage", {})["baseCache"] = {"claimName": draw(NAME)}
            case "no queue" | "no profile":
                spec.pop({"no queue": "queueName", "no profile": "profile"}[choice], None)
            case _:
                spec[choice] = draw({**OPTIONAL, **REQUIRED}[choice])
    evaluated = spec.get("evaluation", {}).get("dataset", {}).get("source")
    if evaluated in [each["source"] for each in (spec["dataset"], *spec.get("datasets", ()))]:
        del spec["evaluation"]
    if "datasets" in spec:
        del spec["dataset"]
    if spec["serving"].get("mode") == "shared" and "publish" in spec:
        # Nothing is merged, so nothing merged can be published.
        spec["publish"] = [{**each, "what": "adapter"} for each in spec["publish"]]
    if spec.get("serving", {}).get("replicas", 0) > 1:
        spec.setdefault("storage", {})["accessMode"] = "ReadWriteMany"
    return spec


@settings(
    max_examples=600,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(spec=specs())
def test_admission_and_operator_agree(control_plane: ControlPlane, spec: Spec) -> None:
    message = policy.rejection(control_plane, "default", spec)
    assert message is None or "denied request: spec." in message, message
    resolved = resolve(spec, builtin_defaults())
    found = violations(resolved.spec, LIMITED, listed=resolved.listed)
    # The fields that a limit requires cannot be written; both must notice their absence.
    required: tuple[Path, ...] = (("profile",),)
    if "profile" not in spec:
        # With a profile, which may set them, the operator alone checks these.
        required += (GPU_SECONDS, IDLE_SECONDS, QUEUE, API_KEY)
    written = [
        each for each in found if each.field in required or value_at(spec, each.field) is not None
    ]
    if message is None:
        assert [each.message for each in written] == []
    else:
        assert message.split("denied request: ", 1)[1] in [each.message for each in found]


@pytest.mark.parametrize("limit", FIELDS)
def test_admission_and_operator_agree_on_each_limit(
    control_plane: ControlPlane, limit: str
) -> None:
    """The limits are those of the schema: a new one needs a case."""
    within, beyond = (edited(change) for change in CASES[limit])
    assert policy.rejection(control_plane, "default", within) is None
    assert violations(completed(within), LIMITED) == ()
    message = policy.rejection(control_plane, "default", beyond)
    assert message is not None
    assert re.search(rf"chart value policy\.{limit}\b", message), message
    found = violations(completed(beyond), LIMITED)
    assert message.split("denied request: ", 1)[1] in [each.message for each in found]


def test_a_shared_job_needs_neither_an_api_key_nor_an_idle_time(
    control_plane: ControlPlane,
) -> None:
    """Its endpoint has both; the only violation is the one that the test causes."""
    own = {"idle": None, "apiKeySecretRef": None}
    spec = edited({"serving": {**own, **SHARED_SERVING}, "profile": None})
    message = str(policy.rejection(control_plane, "default", spec))
    assert "spec.profile: set this field" in message
    assert [each.field for each in violations(completed(spec), LIMITED)] == [("profile",)]


def test_a_profile_may_set_what_the_policy_requires(control_plane: ControlPlane) -> None:
    """The policy does not know the values of the profile: the operator alone checks them."""
    assert policy.rejection(control_plane, "default", {"profile": "gold"}) is None
    beyond = {"profile": "gold", "runPolicy": {"maxGpuSeconds": 3601}}
    message = policy.rejection(control_plane, "default", beyond)
    assert "spec.runPolicy.maxGpuSeconds: 3601 is not allowed" in str(message)


HOSTILE: Spec = {
    "model": {"source": "s3://bucket/evil", "s3": {"secretRef": {"name": "a.b"}}},
    "dataset": {
        "source": "https://example.org/rows",
        "sha256": "0" * 64,
        "format": "text",
        "tokenSecretRef": {"name": "a.b"},
        "caConfigMapRef": {"name": "a.b"},
    },
    "priorityClassName": "system-node-critical",
    "workloadPriorityClassName": "robot-x",
    "queueName": "team-b",
    "placement": {"nodeSelector": {"app": "x"}, "tolerations": [{"operator": "Exists"}]},
    "access": {"serviceAccountName": "data"},
    "resources": {"prepare": {"limits": {"rdma/bad": "1"}}},
    "serving": {
        "apiKeySecretRef": {"name": "a.b"},
        "replicas": 4,
        "idle": {"afterSeconds": 7200},
    },
    "storage": {"baseCache": {"claimName": "a.b"}, "accessMode": "ReadWriteMany"},
    "podMetadata": {"labels": {"app": "x"}},
    "runPolicy": {"maxGpuSeconds": 7200},
    "training": {"sequenceLength": 4096},
}
"""Violates all limits; stored before they exist."""


@pytest.mark.parametrize(
    "change",
    [
        {"suspend": False},
        {"training": {"epochs": 5}},
        {"dataset": {"maxSamples": 10}},
        {"serving": {"maxModelLen": 2048}},
        {"resources": {"train": {"requests": {"cpu": "1"}}}},
        {"podMetadata": None},
        {"serving": {"replicas": 2}},
    ],
    ids=str,
)
def test_an_update_of_other_fields_passes(
    control_plane: ControlPlane, stored: str, change: Spec
) -> None:
    assert policy.edit(control_plane, stored, "stored", change) is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"priorityClassName": "system-cluster-critical"}, "spec.priorityClassName"),
        ({"podMetadata": {"labels": {"run": "x"}}}, "spec.podMetadata.labels"),
        ({"dataset": {"source": "https://example.org/more"}}, "spec.dataset.source"),
        ({"serving": {"replicas": 5}}, "spec.serving.replicas"),
        ({"runPolicy": {"maxGpuSeconds": 7201}}, "spec.runPolicy.maxGpuSeconds"),
        ({"runPolicy": {"maxGpuSeconds": None}}, "spec.runPolicy.maxGpuSeconds"),
        ({"serving": {"idle": {"afterSeconds": 7201}}}, "spec.serving.idle.afterSeconds"),
        ({"serving": {"idle": None}}, "spec.serving.idle.afterSeconds"),
        ({"queueName": None}, "spec.queueName"),
        ({"training": {"sequenceLength": 4095}}, "spec.training.sequenceLength"),
        (
            {"resources": {"prepare": {"limits": {"rdma/bad": "7"}}}},
            "spec.resources.prepare",
        ),
    ],
    ids=str,
)
def test_an_update_of_a_limited_field_is_checked(
    control_plane: ControlPlane, stored: str, change: Spec, field: str
) -> None:
    message = policy.edit(control_plane, stored, "stored", change)
    assert message is not None
    assert f"denied request: {field}: " in message


@pytest.fixture(scope="module", autouse=True)
def stored(control_plane: ControlPlane) -> Iterator[str]:
    """The namespace of a job that violates all limits; the limits were installed after it."""
    name = control_plane.namespace("policy-differential")
    control_plane.post(policy.JOBS.format(name), policy.job("stored", suspend=True, **HOSTILE))
    with policy.installed(control_plane, {"policy": LIMITS}):
        yield name
    control_plane.delete(f"{policy.JOBS.format(name)}/stored")


COMPARISON: Spec = {
    "failurePolicy": "Fail",
    "matchConstraints": {
        "resourceRules": [
            {
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "operations": ["CREATE"],
                "resources": ["configmaps"],
            }
        ]
    },
    "matchConditions": [{"name": "own", "expression": "object.metadata.name == 'patterns'"}],
    "validations": [
        {
            "expression": "object.data.all(k, !k.startsWith('p') || "
            "object.data['v' + k.substring(1)].matches('^(?:' + object.data[k] + ')$') "
            "== (object.data['e' + k.substring(1)] == 'True'))"
        }
    ],
}
"""A policy that compares the results of RE2 with the expected ones in a ConfigMap."""


@pytest.fixture(scope="module")
def comparison(control_plane: ControlPlane) -> Iterator[None]:
    group = "/apis/admissionregistration.k8s.io/v1"
    specs = {
        f"{group}/validatingadmissionpolicies": COMPARISON,
        f"{group}/validatingadmissionpolicybindings": {
            "policyName": "patterns",
            "validationActions": ["Deny"],
        },
    }
    for path, spec in specs.items():
        control_plane.post(path, {"metadata": {"name": "patterns"}, "spec": spec})
    wrong = {"p0": "a", "v0": "b", "e0": "True"}
    wait_until("RE2 is compared", lambda: _compared(control_plane, wrong) is not None)
    yield
    for path in specs:
        control_plane.delete(f"{path}/patterns")


def _compared(plane: ControlPlane, data: dict[str, str]) -> str | None:
    path = "/api/v1/namespaces/default/configmaps?dryRun=All"
    return policy.attempt(plane, "POST", path, {"metadata": {"name": "patterns"}, "data": data}, "")


@settings(
    max_examples=25,
    derandomize=True,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ],
)
@given(pairs=st.lists(st.tuples(PATTERNS, VALUES), min_size=30, max_size=30))
def test_patterns_match_as_in_the_api_server(
    control_plane: ControlPlane, comparison: None, pairs: list[tuple[str, str]]
) -> None:
    data: dict[str, str] = {}
    for number, (pattern, value) in enumerate(pairs):
        result = str(matches(pattern, value))
        data |= {f"p{number}": pattern, f"v{number}": value, f"e{number}": result}
    assert _compared(control_plane, data) is None
