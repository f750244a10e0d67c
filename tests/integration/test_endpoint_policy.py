"""The chart value ``policy`` for FineTuneEndpoints, with users of real RBAC rights."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.integration import policy
from tests.support.api_server.controlplane import ControlPlane, wait_until
from tests.support.api_server.rbac import RBAC, may

AUTHOR = "endpoint-author"
VALUES: dict[str, Any] = {
    "policy": {
        "sources": {"allow": ["hf://acme/.*", "pvc://.*"], "deny": []},
        "secrets": {"allow": [".*"], "deny": ["forbidden"]},
        "requireQueue": True,
        "requireApiKey": True,
        "requireProfile": True,
        "maxGpuSeconds": 3600,
        "maxIdleSeconds": 3600,
    },
}
ALLOWED = {"source": "hf://acme/base"}
KEYS = {"keysSecretRef": {"name": "keys"}}


@pytest.fixture(scope="module", name="place")
def _place(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace with the policies, in which a user may write endpoints and nothing else."""
    name = control_plane.namespace("policy-of-endpoints")
    rules = [
        {"apiGroups": ["finetune.dev"], "resources": ["finetuneendpoints"], "verbs": ["create"]},
        {
            "apiGroups": [""],
            "resources": ["secrets"],
            "resourceNames": ["own-token", "keys", "forbidden"],
            "verbs": ["use"],
        },
    ]
    role = {"metadata": {"name": AUTHOR}, "rules": rules}
    control_plane.post(f"{RBAC}/namespaces/{name}/roles", role)
    control_plane.post(
        f"{RBAC}/namespaces/{name}/rolebindings",
        {
            "metadata": {"name": AUTHOR},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": AUTHOR},
            "subjects": [{"kind": "User", "name": AUTHOR}],
        },
    )
    with policy.installed(control_plane, VALUES):
        right = (AUTHOR, "create", "finetune.dev", "finetuneendpoints", name)
        wait_until("the user may create endpoints", lambda: may(control_plane, *right))
        yield name


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"model": ALLOWED}, None),
        ({"model": {**ALLOWED, "tokenSecretRef": {"name": "own-token"}}}, None),
        ({"model": {"source": "hf://other/base"}}, "hf://other/base"),
        ({"model": ALLOWED, "access": {}}, "spec.access.keysSecretRef: set this field"),
        ({"model": {**ALLOWED, "tokenSecretRef": {"name": "token-of-others"}}}, "token-of-others"),
        ({"model": {"source": "pvc://claim-of-others/base"}}, "claim-of-others"),
        (
            {"model": ALLOWED, "access": {"keysSecretRef": {"name": "secret-of-others"}}},
            "has no permission to use Secret secret-of-others",
        ),
        (
            {"model": ALLOWED, "access": {"keysSecretRef": {"name": "forbidden"}}},
            'spec.access.keysSecretRef: "forbidden" is not allowed',
        ),
        (
            {"model": ALLOWED, "placement": {"tolerations": [{"operator": "Exists"}]}},
            "placement.tolerations",
        ),
        (
            {
                "model": ALLOWED,
                "placement": {"nodeSelector": {"node-role.kubernetes.io/control-plane": ""}},
            },
            "placement.nodeSelector",
        ),
        (
            {"model": ALLOWED, "resources": {"serve": {"limits": {"example.com/fpga": "1"}}}},
            "example.com/fpga",
        ),
    ],
)
def test_an_endpoint_obeys_the_policy(
    control_plane: ControlPlane, place: str, spec: dict[str, Any], said: str | None
) -> None:
    body = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneEndpoint",
        "metadata": {"name": "tried"},
        "spec": {"access": KEYS, **spec},
    }
    path = f"/apis/finetune.dev/v1alpha1/namespaces/{place}/finetuneendpoints?dryRun=All"
    message = policy.attempt(control_plane, "POST", path, body, AUTHOR)
    if said is None:
        assert message is None
    else:
        assert message is not None
        assert said in message


def test_an_endpoint_keeps_the_keys_that_the_policy_requires(
    control_plane: ControlPlane, place: str
) -> None:
    path = f"/apis/finetune.dev/v1alpha1/namespaces/{place}/finetuneendpoints"
    body = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneEndpoint",
        "metadata": {"name": "kept"},
        "spec": {"model": ALLOWED, "access": KEYS},
    }
    stored = control_plane.post(path, body)
    address = f"{path}/kept?dryRun=All"
    without = {**stored, "spec": {**stored["spec"], "access": {}}}
    message = policy.attempt(control_plane, "PUT", address, without, "")
    assert "spec.access.keysSecretRef: set this field" in str(message)
    other = {**stored, "spec": {**stored["spec"], "access": {"keysSecretRef": {"name": "new"}}}}
    assert policy.attempt(control_plane, "PUT", address, other, "") is None
    control_plane.delete(f"{path}/kept")
