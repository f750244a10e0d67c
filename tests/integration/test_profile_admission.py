"""Profiles on a real API server: the right to use them, their limits, and users with few rights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from tests.integration import policy
from tests.integration.limits import CASES, completed, edited
from tests.integration.test_policy_differential import LIMITS, SHARED_SERVING, specs
from tests.support.api_server.controlplane import ApiError, ControlPlane, wait_until
from tests.support.api_server.rbac import RBAC, wait_until_granted
from tests.support.helm import render

from finetune_api.defaulting import effective_defaults, resolve
from finetune_api.layering import value_at
from finetune_api.policy.check import violations
from finetune_api.policy.fields import API_KEY, GPU_SECONDS, IDLE_SECONDS, QUEUE
from finetune_api.policy.limits import FIELDS, narrower
from finetune_api.v1alpha1.profile import DEFAULT_ANNOTATION, ProfileLimits

PROFILES = "/apis/finetune.dev/v1alpha1/finetuneprofiles"
Spec = dict[str, Any]
AUTHOR = "author-of-jobs"
NARROW: Spec = {name: each for name, each in LIMITS.items() if name != "requireProfile"}


@pytest.fixture(scope="module", autouse=True)
def policies(control_plane: ControlPlane) -> Iterator[None]:
    """The admission policies of the chart with its default values, but for destinations."""
    anything = {"publishDestinations": {"allow": [".*"], "deny": []}}
    wide = ("nodeSelectors", "tolerations", "priorityClasses", "podLabels")
    limits = {name: {"allow": [".*"], "deny": []} for name in (*wide, "gpuStageResources")}
    with policy.installed(control_plane, {"policy": {**limits, **anything}}):
        yield


def profile(name: str, *, default: bool = False, **spec: Any) -> Spec:
    metadata: Spec = {"name": name}
    if default:
        metadata["annotations"] = {DEFAULT_ANNOTATION: "true"}
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneProfile",
        "metadata": metadata,
        "spec": spec,
    }


SHORT: Spec = {"training": {"sequenceLength": 128}}
LONG: Spec = {"training": {"sequenceLength": 2048}}


@contextmanager
def offered(plane: ControlPlane, *profiles: Spec) -> Iterator[None]:
    """Offer profiles during the block.

    The API server watches profiles, so it knows a change only some time after the request. Each
    test uses names of its own; a limit that rejects all long sequences shows when it is known.
    """
    for each in profiles:
        plane.post(PROFILES, each)
    try:
        for each in profiles:
            if each["spec"].get("limits"):
                probe = {**LONG} if _is_default(each) else {**LONG, "profile": _name(each)}
                wait_until(
                    f"{_name(each)} is known",
                    lambda probe=probe: policy.rejection(plane, "default", probe) is not None,  # type: ignore[misc]
                )
        yield
    finally:
        for each in profiles:
            plane.delete(f"{PROFILES}/{_name(each)}")
        for each in profiles:
            if each["spec"].get("limits"):
                probe = {**LONG} if _is_default(each) else {**LONG, "profile": _name(each)}
                wait_until(
                    f"{_name(each)} is forgotten",
                    lambda probe=probe: policy.rejection(plane, "default", probe) is None,  # type: ignore[misc]
                )


def _name(each: Spec) -> str:
    return str(each["metadata"]["name"])


def _is_default(each: Spec) -> bool:
    return "annotations" in each["metadata"]


@pytest.fixture(scope="module")
def narrow(control_plane: ControlPlane) -> Iterator[str]:
    """A profile whose limits restrict every field."""
    with offered(control_plane, profile("narrow", limits=NARROW)):
        yield "narrow"


def test_limits_of_a_profile_are_those_of_the_policy() -> None:
    fields = {info.alias for info in ProfileLimits.model_fields.values()}
    assert fields == FIELDS.keys() - {"requireProfile"}
    assert NARROW.keys() == fields


@settings(
    max_examples=400,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(spec=specs())
def test_admission_and_operator_agree(control_plane: ControlPlane, narrow: str, spec: Spec) -> None:
    spec = {**spec, "profile": narrow}
    message = policy.rejection(control_plane, "default", spec)
    assert message is None or "denied request: spec." in message, message
    resolved = resolve(spec, effective_defaults({}))
    limits = narrower(NARROW)
    found = violations(resolved.spec, limits, listed=resolved.listed, profile=narrow)
    required = GPU_SECONDS, IDLE_SECONDS, QUEUE, API_KEY
    written = [
        each for each in found if each.field in required or value_at(spec, each.field) is not None
    ]
    if message is None:
        assert [each.message for each in written] == []
    elif "FineTuneProfile" in message:
        assert message.split("denied request: ", 1)[1] in [each.message for each in found]
    else:
        assert "the pods of this stage have no GPU" in message


@pytest.mark.parametrize("limit", sorted(NARROW))
def test_admission_and_operator_agree_on_each_limit(
    control_plane: ControlPlane, narrow: str, limit: str
) -> None:
    """The limits are those of the schema: a new one needs a case."""
    within, beyond = (edited(change, profile=narrow) for change in CASES[limit])
    limits = narrower(NARROW)
    assert policy.rejection(control_plane, "default", within) is None
    assert violations(completed(within), limits, profile=narrow) == ()
    message = policy.rejection(control_plane, "default", beyond)
    assert message is not None
    assert f"limits.{limit} of FineTuneProfile narrow" in message
    found = violations(completed(beyond), limits, profile=narrow)
    assert message.split("denied request: ", 1)[1] in [each.message for each in found]


@pytest.mark.parametrize(
    ("limits", "within", "beyond"),
    [
        ({"maxSequenceLength": 1024}, {"training": {"sequenceLength": 1024}}, LONG),
        (
            {"maxGpuSeconds": 600},
            {"runPolicy": {"maxGpuSeconds": 600}},
            {"runPolicy": {"maxGpuSeconds": 601}},
        ),
        (
            {"maxIdleSeconds": 600},
            {"serving": {"idle": {"afterSeconds": 600}}},
            {"serving": {"idle": {"afterSeconds": 601}}},
        ),
        ({"maxIdleSeconds": 600}, {"serving": {"idle": {"afterSeconds": 60}}}, {"serving": {}}),
        ({"requireQueue": True}, {"queueName": "a"}, {}),
        (
            {"requireApiKey": True},
            {"serving": {"apiKeySecretRef": {"name": "key"}}},
            {"serving": {"enabled": True}},
        ),
        ({"requireApiKey": True}, {"serving": {"enabled": False}}, {}),
        ({"requireApiKey": True}, {"serving": SHARED_SERVING}, {}),
        ({"maxIdleSeconds": 600}, {"serving": SHARED_SERVING}, {}),
        ({"queues": {"deny": ["b"]}}, {"queueName": "a"}, {"queueName": "b"}),
        ({"queues": {"allow": ["a"]}}, {"queueName": "a"}, {"queueName": "b"}),
    ],
    ids=str,
)
def test_one_limit(control_plane: ControlPlane, limits: Spec, within: Spec, beyond: Spec) -> None:
    """A limit alone, and names without one of their two lists."""
    with offered(control_plane, profile("one", limits={"maxSequenceLength": 2047, **limits})):
        assert policy.rejection(control_plane, "default", {**within, "profile": "one"}) is None
        message = policy.rejection(control_plane, "default", {**beyond, "profile": "one"})
        assert message is not None
        assert f"limits.{next(iter(limits))} of FineTuneProfile one" in message
        assert policy.rejection(control_plane, "default", beyond) is None


def test_defaults_of_the_profile_set_required_fields(control_plane: ControlPlane) -> None:
    limits = {
        "requireQueue": True,
        "maxGpuSeconds": 600,
        "maxIdleSeconds": 600,
        "maxSequenceLength": 1024,
        "requireApiKey": True,
    }
    defaults = {
        "runPolicy": {"maxGpuSeconds": 600},
        "serving": {"idle": {"afterSeconds": 600}, "apiKeySecretRef": {"name": "key"}},
    }
    with offered(control_plane, profile("full", limits=limits, defaults=defaults, queueName="a")):
        assert policy.rejection(control_plane, "default", {"profile": "full"}) is None


@pytest.mark.parametrize("enabled", [True, False])
def test_a_job_that_does_not_serve_needs_no_api_key(
    control_plane: ControlPlane, *, enabled: bool
) -> None:
    """The profile decides whether jobs serve that do not say so."""
    limits = {"requireApiKey": True, "maxSequenceLength": 1024}
    defaults = {"serving": {"enabled": enabled}}
    with offered(control_plane, profile("some", limits=limits, defaults=defaults)):

        def rejected(**serving: Any) -> bool:
            spec = {"profile": "some", **({"serving": serving} if serving else {})}
            return policy.rejection(control_plane, "default", spec) is not None

        assert rejected() is enabled
        assert rejected(enabled=True)
        assert not rejected(enabled=False)


def test_a_job_that_leaves_its_endpoint_needs_what_the_profile_requires(
    control_plane: ControlPlane, namespace: str
) -> None:
    """Its own serving pods then need the key, although neither field of it changes."""
    limits = {"maxSequenceLength": 2047, "maxIdleSeconds": 600, "requireApiKey": True}
    shared = {"profile": "keys", "serving": SHARED_SERVING}
    left: Spec = {"mode": None, "endpointRef": None}
    idle, key = {"idle": {"afterSeconds": 60}}, {"apiKeySecretRef": {"name": "key"}}

    def refusal(**serving: Any) -> str:
        return str(policy.edit(control_plane, namespace, "shared", {"serving": serving}))

    with offered(control_plane, profile("keys", limits=limits)):
        control_plane.post(policy.JOBS.format(namespace), policy.job("shared", **shared))
        assert refusal(endpointRef={"name": "other"}) == "None"
        assert "spec.serving.idle.afterSeconds: set this field" in refusal(**left, **key)
        assert "spec.serving.apiKeySecretRef: set this field" in refusal(**left, **idle)
        assert refusal(**left, **idle, **key) == "None"


def test_a_default_profile_limits_jobs_without_one(control_plane: ControlPlane) -> None:
    default = profile("usual", default=True, limits={"maxSequenceLength": 1024})
    with offered(control_plane, default, profile("free")):
        message = policy.rejection(control_plane, "default", LONG)
        assert message is not None
        assert "FineTuneProfile usual" in message
        assert policy.rejection(control_plane, "default", {**LONG, "profile": "free"}) is None


def _grant(plane: ControlPlane, namespace: str, *names: str) -> None:
    rule = {
        "apiGroups": ["finetune.dev"],
        "resources": ["finetuneprofiles"],
        "verbs": ["use"],
        "resourceNames": list(names),
    }
    policy.grant(plane, namespace, AUTHOR, rule)


def test_a_user_needs_the_right_to_use_a_profile(
    control_plane: ControlPlane, namespace: str
) -> None:
    """It is granted per namespace and name, also for a profile that does not exist yet."""
    _grant(control_plane, namespace, "small", "later")
    small = profile("small", limits={"maxSequenceLength": 1024})
    with offered(control_plane, small, profile("large", limits={"maxSequenceLength": 1024})):

        def tried(**spec: Any) -> str | None:
            return policy.rejection(control_plane, namespace, spec, AUTHOR)

        assert tried() is None
        assert tried(profile="small") is None
        assert tried(profile="later") is None
        for name in ("large", "absent"):
            assert (
                f"spec.profile: user {AUTHOR} has no permission to use FineTuneProfile {name} in "
                "this namespace"
            ) in str(tried(profile=name))
        jobs = policy.JOBS.format(namespace)
        control_plane.post(jobs, policy.job("of-another-user", suspend=True, profile="large"))
        edited = policy.edit(
            control_plane, namespace, "of-another-user", {"suspend": False}, AUTHOR
        )
        assert edited is None
        # The limits do not depend on who edits.
        edited = policy.edit(control_plane, namespace, "of-another-user", LONG, AUTHOR)
        assert "FineTuneProfile large" in str(edited)
        control_plane.delete(f"{jobs}/of-another-user")


def test_a_user_needs_the_right_to_use_the_default_profile(
    control_plane: ControlPlane, namespace: str
) -> None:
    _grant(control_plane, namespace, "small")
    default = profile("premium", default=True, limits={"maxSequenceLength": 1024})
    with offered(control_plane, default):
        message = policy.rejection(control_plane, namespace, {}, AUTHOR)
        assert "no permission to use FineTuneProfile premium" in str(message)
        assert policy.rejection(control_plane, namespace, {"profile": "small"}, AUTHOR) is None


def test_edits(control_plane: ControlPlane, namespace: str) -> None:
    """A limit that was tightened stops no edit of another field; the field itself is checked."""
    jobs = policy.JOBS.format(namespace)
    loose = profile("changing", limits={"maxSequenceLength": 2047})
    with offered(control_plane, loose, profile("other", limits={"maxSequenceLength": 100})):
        spec = {"profile": "changing", "training": {"sequenceLength": 1500}}
        control_plane.post(jobs, policy.job("edited", suspend=True, **spec))
        path = f"{PROFILES}/changing"
        content = "application/merge-patch+json"
        limits = {"spec": {"limits": {"maxSequenceLength": 1024}}}
        control_plane.request("PATCH", path, limits, content)
        wait_until(
            "the limit is known",
            lambda: policy.rejection(control_plane, namespace, spec) is not None,
        )

        def edit(**change: Any) -> str | None:
            return policy.edit(control_plane, namespace, "edited", change)

        assert edit(suspend=True, rerun="again") is None
        assert "FineTuneProfile changing" in str(edit(training={"sequenceLength": 1400}))
        assert edit(training={"sequenceLength": 1024}) is None
        # With another profile, every field is checked.
        assert "FineTuneProfile other" in str(edit(profile="other"))
        message = edit(profile=None)
        assert "spec.profile: you cannot remove this field" in str(message)
        assert edit(profile="other", training={"sequenceLength": 100}) is None
        control_plane.delete(f"{jobs}/edited")


def test_a_profile_without_limits_can_be_removed(
    control_plane: ControlPlane, namespace: str
) -> None:
    jobs = policy.JOBS.format(namespace)
    with offered(control_plane, profile("unlimited")):
        control_plane.post(jobs, policy.job("free", suspend=True, profile="unlimited"))
        assert policy.edit(control_plane, namespace, "free", {"profile": None}) is None
        control_plane.delete(f"{jobs}/free")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"price": {"perGpuHour": "2,50", "currency": "EUR"}}, "decimal number"),
        ({"price": {"perGpuHour": "2.50", "currency": "euro"}}, "spec.price.currency"),
        ({"price": {"perGpuHour": "2.50"}}, "spec.price.currency: Required value"),
        ({"card": "NVIDIA L4"}, "node label nvidia.com/gpu.product"),
        ({"limits": {"queues": {"allow": ["a"] * 17}}}, "must have at most 16 items"),
        ({"limits": {"maxReplicas": 0}}, "greater than or equal to 1"),
        ({"limits": {"sequences": 0}}, "unknown field"),
    ],
    ids=str,
)
def test_an_invalid_profile_is_rejected(
    control_plane: ControlPlane, spec: Spec, message: str
) -> None:
    with pytest.raises(ApiError, match=message):
        control_plane.post(
            f"{PROFILES}?dryRun=All&fieldValidation=Strict", profile("invalid", **spec)
        )


def test_a_reader_of_the_chart_sees_the_menu(control_plane: ControlPlane) -> None:
    rendered = render({})
    role = rendered.one("ClusterRole", "finetune-operator-catalog")
    binding = {
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "profile-readers"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": role["metadata"]["name"],
        },
        "subjects": [{"kind": "User", "name": "reader-of-profiles"}],
    }
    control_plane.post(f"{RBAC}/clusterroles", role)
    control_plane.post(f"{RBAC}/clusterrolebindings", binding)
    try:
        wait_until_granted(control_plane, [role, binding])
        headers = {"Impersonate-User": "reader-of-profiles"}
        control_plane.request("GET", PROFILES, headers=headers)
        with pytest.raises(ApiError, match="cannot create"):
            control_plane.request("POST", PROFILES, profile("own"), headers=headers)
    finally:
        control_plane.delete(f"{RBAC}/clusterrolebindings/profile-readers")
        control_plane.delete(f"{RBAC}/clusterroles/{role['metadata']['name']}")
