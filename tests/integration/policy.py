"""The chart's admission policies on a real API server, and users without other permissions."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.support.api_server.controlplane import ApiError, ControlPlane, wait_until
from tests.support.api_server.manifest_files import kubectl
from tests.support.api_server.rbac import RBAC, wait_until_granted
from tests.support.helm import Values, render

JOBS = "/apis/finetune.dev/v1alpha1/namespaces/{}/finetunejobs"
CANARY = "canary-of-policies"
EDIT_JOBS = {
    "apiGroups": ["finetune.dev"],
    "resources": ["finetunejobs", "finetunejobs/scale"],
    "verbs": ["get", "create", "update", "patch"],
}


def job(name: str = "tried", **spec: Any) -> dict[str, Any]:
    """Return a small FineTuneJob with further fields of the spec."""
    dataset = {"dataset": {"source": "hf://acme/data", "format": "text"}}
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"source": "hf://acme/base"},
            **({} if "datasets" in spec else dataset),
            **spec,
        },
    }


@contextmanager
def installed(plane: ControlPlane, values: Values) -> Iterator[None]:
    """Enforce the admission policies of the chart during the block."""
    with enforced(
        plane,
        [
            each
            for each in render(values).objects
            if each["kind"].startswith("ValidatingAdmissionPolicy")
        ],
    ):
        yield


@contextmanager
def enforced(plane: ControlPlane, policies: Sequence[Any]) -> Iterator[None]:
    """Enforce admission policies during the block. policies: with their bindings.

    The API server watches policies and bindings, in the order of their writes. A canary is written
    last, so it takes effect after all others, and loses its effect after them.
    """
    items = [*policies, *_canary()]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    done = kubectl(plane, "apply", "-f", "-", stdin=listed)
    assert done.returncode == 0, done.stderr
    try:
        wait_until("the policies are enforced", lambda: _is_enforced(plane))
        yield
    finally:
        kubectl(plane, "delete", "-f", "-", stdin=listed)
        wait_until("the policies are no longer enforced", lambda: not _is_enforced(plane))


def _canary() -> list[Any]:
    """Return a policy, and its binding, that denies one ConfigMap."""
    kind = "ValidatingAdmissionPolicy"
    head = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "metadata": {"name": CANARY},
    }
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}
    spec = {
        "matchConstraints": {"resourceRules": [{**rule, "operations": ["CREATE"]}]},
        "matchConditions": [
            {"name": "canary", "expression": f"object.metadata.name == '{CANARY}'"}
        ],
        "validations": [{"expression": "false", "message": CANARY}],
    }
    binding = {"policyName": CANARY, "validationActions": ["Deny"]}
    return [
        {**head, "kind": kind, "spec": spec},
        {**head, "kind": f"{kind}Binding", "spec": binding},
    ]


def _is_enforced(plane: ControlPlane) -> bool:
    path = "/api/v1/namespaces/default/configmaps?dryRun=All"
    return attempt(plane, "POST", path, {"metadata": {"name": CANARY}}, "") is not None


def rejection(
    plane: ControlPlane, namespace: str, spec: dict[str, Any], user: str = ""
) -> str | None:
    """Return the message with which a new job is rejected, or None. Nothing is stored."""
    return attempt(plane, "POST", JOBS.format(namespace) + "?dryRun=All", job(**spec), user)


def edit(
    plane: ControlPlane, namespace: str, name: str, spec: dict[str, Any], user: str = ""
) -> str | None:
    """Merge fields into the spec of a job; return the message of a rejection, or None."""
    return attempt(plane, "PATCH", f"{JOBS.format(namespace)}/{name}", {"spec": spec}, user)


def attempt(plane: ControlPlane, method: str, path: str, body: Any, user: str) -> str | None:
    """Send a request as a user, by default the administrator; return the message of a rejection.

    Raises ApiError for any other error than a rejection by a policy or a rule.
    """
    content = "application/merge-patch+json" if method == "PATCH" else "application/json"
    headers = {"Impersonate-User": user} if user else {}
    try:
        plane.request(method, path, body, content, headers)
    except ApiError as error:
        if error.status != 422:
            raise
        return str(error)
    return None


def grant(plane: ControlPlane, namespace: str, user: str, *rules: dict[str, Any]) -> None:
    """Give a user the right to write FineTuneJobs, and further rights, in a namespace."""
    path = f"{RBAC}/namespaces/{namespace}"
    metadata = {"name": user, "namespace": namespace}
    role = {"kind": "Role", "metadata": metadata, "rules": [EDIT_JOBS, *rules]}
    binding = {
        "kind": "RoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
        "subjects": [{"kind": "User", "name": user}],
    }
    plane.post(f"{path}/roles", role)
    plane.post(f"{path}/rolebindings", binding)
    wait_until_granted(plane, [role, binding])


def rule(resource: str, verb: str, *names: str) -> dict[str, Any]:
    """Return a rule of a role for a resource of the core group."""
    named = {"resourceNames": list(names)} if names else {}
    return {"apiGroups": [""], "resources": [resource], "verbs": [verb], **named}
