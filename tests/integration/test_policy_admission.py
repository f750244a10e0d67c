"""The default policy on a real API server: hostile specs, and users with few rights."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.integration import policy
from tests.support.api_server.controlplane import ControlPlane
from tests.support.api_server.manifest_files import EXAMPLES, example_jobs, printed_jobs
from tests.support.attacks.hostile_specs import MEMBERSHIPS, PRIVILEGES, Hostile

AUTHOR = "job-author"


@pytest.fixture(scope="module", autouse=True)
def defaults(control_plane: ControlPlane) -> Iterator[None]:
    """The admission policies of the chart with its default values."""
    with policy.installed(control_plane, {}):
        yield


@pytest.mark.parametrize("hostile", [*PRIVILEGES, *MEMBERSHIPS], ids=lambda each: str(each.name))
def test_a_hostile_spec_is_rejected(control_plane: ControlPlane, hostile: Hostile) -> None:
    message = policy.rejection(control_plane, "default", hostile.spec)
    assert message is not None
    assert f"denied request: {hostile.field}: " in message
    assert "is not allowed. Allowed: " in message


def test_documented_manifests_are_allowed(control_plane: ControlPlane) -> None:
    specs = [each["spec"] for each in (*printed_jobs().values(), *example_jobs())]
    assert len(specs) >= len(EXAMPLES) > 0
    for spec in specs:
        assert policy.rejection(control_plane, "default", spec) is None


CERTIFIED = "user-of-certificates"
REFERENCES = [
    ({"model": {"source": "hf://a/b", "tokenSecretRef": {"name": "x"}}}, "secrets"),
    (
        {"model": {"source": "s3://bucket/m", "s3": {"secretRef": {"name": "x"}}}},
        "secrets",
    ),
    (
        {"model": {"source": "oci://r.example/m", "oci": {"secretRef": {"name": "x"}}}},
        "secrets",
    ),
    *(
        ({"training": {"startFrom": start}}, "secrets")
        for start in (
            {"source": "oci://r.example/m", "oci": {"secretRef": {"name": "x"}}},
            {"source": "s3://bucket/m", "s3": {"secretRef": {"name": "x"}}},
            {"source": "hf://a/d", "tokenSecretRef": {"name": "x"}},
        )
    ),
    (
        {"training": {"startFrom": {"source": "pvc://x/adapter"}}},
        "persistentvolumeclaims",
    ),
    (
        {
            "dataset": {
                "source": "https://attacker.example/a",
                "format": "text",
                "sha256": "0" * 64,
                "tokenSecretRef": {"name": "x"},
            }
        },
        "secrets",
    ),
    (
        {
            "evaluation": {
                "dataset": {
                    "source": "hf://a/c",
                    "format": "text",
                    "tokenSecretRef": {"name": "x"},
                }
            }
        },
        "secrets",
    ),
    ({"serving": {"apiKeySecretRef": {"name": "x"}}}, "secrets"),
    ({"dataset": {"source": "configmap://x/rows.jsonl", "format": "text"}}, "configmaps"),
    (
        {
            "dataset": {
                "source": "s3://bucket/d",
                "format": "text",
                "caConfigMapRef": {"name": "x"},
            }
        },
        "configmaps",
    ),
    ({"model": {"source": "pvc://x/models"}}, "persistentvolumeclaims"),
    ({"dataset": {"source": "pvc://x/rows", "format": "text"}}, "persistentvolumeclaims"),
    ({"storage": {"baseCache": {"claimName": "x"}}}, "persistentvolumeclaims"),
    ({"access": {"serviceAccountName": "x"}}, "serviceaccounts"),
]
"""Specs that refer to the object ``x``, and its resource."""
BY_REFERENCE = pytest.mark.parametrize(
    ("spec", "resource"), REFERENCES, ids=[f"{n}-{each[1]}" for n, each in enumerate(REFERENCES)]
)


@BY_REFERENCE
def test_a_reference_needs_a_right_on_its_object(
    control_plane: ControlPlane, namespace: str, spec: dict[str, Any], resource: str
) -> None:
    """Each user has one right; only the last ones may use the object."""
    readable = resource in ("secrets", "configmaps")
    users = {
        "author": ((), False),
        "user-of-another": ((policy.rule(resource, "use", "another"),), False),
        "lister": ((policy.rule(resource, "list"),), False),
        "user-of-x": ((policy.rule(resource, "use", "x"),), True),
        "reader-of-x": ((policy.rule(resource, "get", "x"),), readable),
        "pod-creator": ((policy.rule("pods", "create"),), not readable),
    }
    for user, (rules, allowed) in users.items():
        policy.grant(control_plane, namespace, user, *rules)
        message = policy.rejection(control_plane, namespace, spec, user)
        if allowed:
            assert message is None, user
        else:
            assert message is not None, user
            assert f"user {user} has no permission to use " in message
            assert " x in this namespace. Set the name of a " in message


def _with_token(source: str, **fields: Any) -> dict[str, Any]:
    return {
        "dataset": {
            "source": source,
            "format": "text",
            "tokenSecretRef": {"name": "x"},
            **fields,
        }
    }


@pytest.fixture
def shared(control_plane: ControlPlane, namespace: str) -> str:
    """A job of the administrator that uses Secret x, in a namespace with a job author."""
    policy.grant(control_plane, namespace, AUTHOR)
    path = policy.JOBS.format(namespace)
    spec = {
        **_with_token("hf://acme/private"),
        "access": {"serviceAccountName": "x"},
        "serving": {"replicas": 1},
    }
    control_plane.post(path, policy.job("shared", suspend=True, **spec))
    return namespace


@pytest.mark.parametrize(
    "spec",
    [
        {"dataset": {"source": "https://attacker.example/a", "sha256": "0" * 64}},
        {"dataset": {"source": "hf://attacker/a"}},
        {"dataset": {"tokenSecretRef": {"name": "x", "key": "other"}}},
        {"dataset": {"tokenSecretRef": {"name": "y"}}},
        {"model": {"source": "s3://bucket/of-the-account"}},
        {"training": {"startFrom": {"source": "s3://bucket/of-the-account"}}},
        {"training": {"startFrom": {"job": {"name": "of-another-user"}}}},
        {"access": {"serviceAccountName": "y"}},
    ],
    ids=[
        "another host",
        "another repository",
        "key",
        "Secret",
        "bucket",
        "bucket of an adapter",
        "job with an adapter",
        "account",
    ],
)
def test_a_credential_of_another_user_is_not_redirected(
    control_plane: ControlPlane, shared: str, spec: dict[str, Any]
) -> None:
    message = policy.edit(control_plane, shared, "shared", spec, AUTHOR)
    assert message is not None
    assert f"user {AUTHOR} has no permission to use " in message


@pytest.mark.parametrize(
    "spec",
    [
        {"suspend": False},
        {"dataset": {"maxSamples": 10}},
        {"serving": {"maxModelLen": 1024}},
        {"rerun": "again"},
        {"dataset": {"tokenSecretRef": None}},
    ],
    ids=["resume", "rows", "serving", "rerun", "remove"],
)
def test_other_fields_can_be_edited(
    control_plane: ControlPlane, shared: str, spec: dict[str, Any]
) -> None:
    if "tokenSecretRef" in spec.get("dataset", {}):
        # The account of another user must not be used with another credential.
        assert policy.edit(control_plane, shared, "shared", {"access": None}, AUTHOR) is None
    assert policy.edit(control_plane, shared, "shared", spec, AUTHOR) is None


CA: dict[str, Any] = {"caConfigMapRef": {"name": "own-ca"}}
ROWS: dict[str, Any] = {"source": "hf://acme/rows", "format": "text"}
S3_MODEL: dict[str, Any] = {"source": "s3://bucket/model"}


@pytest.mark.parametrize(
    ("spec", "trusted"),
    [
        ({"model": CA}, True),
        ({"evaluation": {"dataset": {**ROWS, **CA}}}, True),
        ({"model": {**S3_MODEL, **CA}}, False),
        ({"evaluation": {"dataset": ROWS}}, False),
    ],
    ids=["model", "evaluation dataset", "not for the hub", "no certificates"],
)
@pytest.mark.finding(17, "references to Secrets of other users")
def test_a_user_without_the_token_cannot_choose_the_certificates_of_the_hub(
    control_plane: ControlPlane, namespace: str, spec: dict[str, Any], *, trusted: bool
) -> None:
    """The certificates of each hf:// source apply to the connection that carries the token."""
    own = policy.rule("configmaps", "use", "own-ca")
    policy.grant(control_plane, namespace, CERTIFIED, own)
    path = policy.JOBS.format(namespace)
    job = policy.job("certified", suspend=True, **_with_token("hf://acme/private"))
    control_plane.post(path, job)
    try:
        message = policy.edit(control_plane, namespace, "certified", spec, CERTIFIED)
        assert (message is not None) == trusted
        if message is not None:
            assert f"user {CERTIFIED} has no permission to use Secret x" in message
    finally:
        control_plane.delete(f"{path}/certified")


@pytest.mark.finding(17, "references to Secrets of other users")
def test_an_entry_of_a_list_cannot_choose_the_certificates_of_the_hub(
    control_plane: ControlPlane, namespace: str
) -> None:
    """Nor does a source that already has certificates become one of the hub."""
    policy.grant(control_plane, namespace, CERTIFIED, policy.rule("configmaps", "use", "own-ca"))
    path = policy.JOBS.format(namespace)
    entry = {"name": "rows", "source": "s3://bucket/rows", "format": "text", **CA}
    token = {"source": "hf://acme/private", "tokenSecretRef": {"name": "x"}}
    job = policy.job("certified", suspend=True, model=token, datasets=[entry])
    job["spec"].pop("dataset", None)
    control_plane.post(path, job)

    def edited(**fields: Any) -> str | None:
        spec = {"datasets": [{**entry, **fields}]}
        return policy.edit(control_plane, namespace, "certified", spec, CERTIFIED)

    try:
        assert edited(weight=2) is None
        message = edited(source="hf://acme/rows")
        assert message is not None
        assert f"user {CERTIFIED} has no permission to use Secret x" in message
    finally:
        control_plane.delete(f"{path}/certified")


@pytest.mark.finding(17, "references to Secrets of other users")
def test_a_user_without_the_keys_cannot_choose_the_certificates_of_their_connection(
    control_plane: ControlPlane, namespace: str
) -> None:
    """The certificates of an hf:// source apply to the connections to an S3 service, too."""
    policy.grant(control_plane, namespace, CERTIFIED, policy.rule("configmaps", "use", "own-ca"))
    path = policy.JOBS.format(namespace)
    bucket = {"source": "s3://bucket/d", "format": "text", "s3": {"secretRef": {"name": "x"}}}
    control_plane.post(path, policy.job("certified", suspend=True, dataset=bucket))
    try:
        message = policy.edit(control_plane, namespace, "certified", {"model": CA}, CERTIFIED)
        assert message is not None
        assert f"user {CERTIFIED} has no permission to use Secret x" in message
    finally:
        control_plane.delete(f"{path}/certified")


def test_replicas_are_limited_through_the_scale_subresource(
    control_plane: ControlPlane, shared: str
) -> None:
    path = f"{policy.JOBS.format(shared)}/shared"
    spec = {"storage": {"accessMode": "ReadWriteMany"}}
    assert policy.edit(control_plane, shared, "shared", spec) is None
    for replicas, allowed in ((64, True), (2, True)):
        body = {"spec": {"replicas": replicas}}
        message = policy.attempt(control_plane, "PATCH", f"{path}/scale", body, AUTHOR)
        assert (message is None) is allowed, message
    assert control_plane.get(path)["spec"]["serving"]["replicas"] == 2
