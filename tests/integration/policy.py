"""The chart's admission policies on a real API server, and users without other permissions."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.chart.helm import Values, render
from tests.integration.controlplane import ApiError, ControlPlane, wait_until
from tests.integration.manifest_files import kubectl

RBAC = "/apis/rbac.authorization.k8s.io/v1"
JOBS = "/apis/finetune.dev/v1alpha1/namespaces/{}/finetunejobs"
CANARY = {"priorityClassName": "system-canary"}
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
    """Install the admission policies of the chart, and wait until they take effect.

    values: must reject ``CANARY``. At the end, wait until they have no effect any more.
    """
    documents = [
        each
        for each in render(values).objects
        if each["kind"].startswith("ValidatingAdmissionPolicy")
    ]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
    done = kubectl(plane, "apply", "-f", "-", stdin=listed)
    assert done.returncode == 0, done.stderr
    try:
        wait_until("the policy rejects", lambda: rejection(plane, "default", CANARY) is not None)
        yield
    finally:
        kubectl(plane, "delete", "-f", "-", stdin=listed)
        wait_until("the policy is gone", lambda: rejection(plane, "default", CANARY) is None)


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
    """Give a user the right to write FineTuneJobs, and further rights, in a namespace.

    Returns when the API server's authorizer, which watches roles and bindings, knows them.
    """
    path = f"{RBAC}/namespaces/{namespace}"
    plane.post(f"{path}/roles", {"metadata": {"name": user}, "rules": [EDIT_JOBS, *rules]})
    plane.post(
        f"{path}/rolebindings",
        {
            "metadata": {"name": user},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "Role",
                "name": user,
            },
            "subjects": [{"kind": "User", "name": user}],
        },
    )
    wait_until(f"{user} may create jobs", lambda: _may_create_jobs(plane, namespace, user))


def _may_create_jobs(plane: ControlPlane, namespace: str, user: str) -> bool:
    attributes = {
        "namespace": namespace,
        "verb": "create",
        "group": "finetune.dev",
        "resource": "finetunejobs",
    }
    review = {"spec": {"user": user, "resourceAttributes": attributes}}
    answer = plane.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


def rule(resource: str, verb: str, *names: str) -> dict[str, Any]:
    """Return a rule of a role for a resource of the core group."""
    named = {"resourceNames": list(names)} if names else {}
    return {"apiGroups": [""], "resources": [resource], "verbs": [verb], **named}
