"""Users with real RBAC rights."""

import json
import time
from typing import Any

from tests.support.local_cluster.target import Cluster
from tests.support.local_cluster.tuning import Tuning

AUTHOR = "job-author"
"""A user who can write FineTuneJobs in one namespace."""
EDITOR = "editor"
"""A user with the cluster role edit in one namespace."""
EFFECTIVE_SECONDS = 240.0


def admit(cluster: Cluster, namespace: str, *rules: dict[str, Any]) -> None:
    """Bind the role of the job author, with further rules, in a namespace."""
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
                },
                *rules,
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
    wait_for_right(cluster, namespace, AUTHOR, "create", "finetunejobs.finetune.dev")


def make_editor(cluster: Cluster, namespace: str) -> None:
    """Bind the cluster role edit to the editor in a namespace."""
    rbac = "rbac.authorization.k8s.io"
    cluster.kubectl.apply(
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": EDITOR, "namespace": namespace},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "edit"},
            "subjects": [{"apiGroup": rbac, "kind": "User", "name": EDITOR}],
        }
    )
    wait_for_right(cluster, namespace, EDITOR, "create", "pods")


def wait_for_right(cluster: Cluster, namespace: str, user: str, verb: str, kind: str) -> None:
    """Wait until the authorizer of the API server, which watches bindings, grants a right."""
    question = ("auth", "can-i", verb, kind, f"--as={user}", f"--namespace={namespace}")
    until = time.monotonic() + EFFECTIVE_SECONDS
    while cluster.kubectl.attempt(*question).stdout.strip() != "yes":
        assert time.monotonic() < until, f"{user} may not {verb} {kind}"
        time.sleep(0.1)


def submit(cluster: Cluster, tuning: Tuning, spec: dict[str, Any]) -> str:
    """Create a job as the job author; return the text of the rejection, or an empty text."""
    job = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": tuning.name, "namespace": tuning.namespace},
        "spec": spec,
    }
    options = ("create", f"--as={AUTHOR}", "-f", "-")
    done = cluster.kubectl.attempt(*options, stdin=json.dumps(job))
    assert done.returncode == 0 or "denied request: spec." in done.stderr, done.stderr
    return done.stderr if done.returncode else ""
