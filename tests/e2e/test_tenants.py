"""Attacks by users with real RBAC rights, each with the number of its finding."""

import json

import pytest
from tests.e2e import locks
from tests.e2e.target import Cluster
from tests.e2e.tuning import Tuning, small
from tests.security.credentials import UNUSABLE, leaks

LOCKS: dict[str, locks.How] = {locks.OPERATOR: "shared"}
pytestmark = pytest.mark.timeout(300)

AUTHOR = "job-author"
"""A user who can write FineTuneJobs in one namespace, and has no other permission."""
SECONDS = 180.0


def admit(cluster: Cluster, namespace: str) -> None:
    """Bind the role of the job author in a namespace."""
    rbac, name = "rbac.authorization.k8s.io", {"name": AUTHOR, "namespace": namespace}
    cluster.kubectl.apply(
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "Role",
            "metadata": name,
            "rules": [
                {
                    "apiGroups": ["finetune.dev"],
                    "resources": ["finetunejobs"],
                    "verbs": ["get", "list", "watch", "create", "update", "patch", "delete"],
                }
            ],
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": name,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": AUTHOR},
            "subjects": [{"apiGroup": rbac, "kind": "User", "name": AUTHOR}],
        },
    )


@pytest.mark.finding(1, "a Secret's content is published")
def test_private_key_as_a_token_is_not_published(
    cluster: Cluster, tuning: Tuning, workspace: str
) -> None:
    kubectl, key = cluster.kubectl, UNUSABLE["PEM"]
    admit(cluster, workspace)
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "payroll", "namespace": workspace},
            "stringData": {"tls.key": key},
        }
    )
    author = (f"--as={AUTHOR}", f"--namespace={workspace}")
    assert kubectl.attempt("auth", "can-i", "get", "secrets", *author).stdout.strip() == "no"
    token = {"tokenSecretRef": {"name": "payroll", "key": "tls.key"}}
    job = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": tuning.name, "namespace": workspace},
        "spec": small(dataset=token),
    }
    kubectl.run("create", *author, "-f", "-", stdin=json.dumps(job))
    stalled = tuning.wait_until("Stalled", reason="AccessDenied", seconds=SECONDS)
    assert "dataset.tokenSecretRef contains a line break" in stalled["message"]
    (pod,) = tuning.pods("prepare")
    published = {
        "job": kubectl.run("get", "ftj", tuning.name, *author, "-o", "json"),
        "pods": kubectl.run("get", "pods", f"--namespace={workspace}", "-o", "json"),
        "events": kubectl.run("get", "events", f"--namespace={workspace}", "-o", "json"),
        "log": kubectl.logs(pod["metadata"]["name"], workspace),
    }
    assert "AccessDenied" in published["log"]
    assert {name: found for name, text in published.items() if (found := leaks(text, key))} == {}
