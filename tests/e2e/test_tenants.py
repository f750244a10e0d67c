"""Attacks by users with real RBAC rights, each with the number of its finding."""

import json

import pytest
from tests.e2e import locks, metrics, pods
from tests.e2e.pods import Task
from tests.e2e.target import Cluster
from tests.e2e.tuning import Tuning, small
from tests.security.credentials import UNUSABLE, leaks

from finetune_operator import health
from finetune_operator.metrics_server import server

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


@pytest.mark.finding(11, "prepare connects to private addresses")
def test_source_at_a_private_address_is_denied_before_the_connection(
    cluster: Cluster, tuning: Tuning, workspace: str
) -> None:
    """The address is that of the API server; the NetworkPolicy alone would cause a time-out."""
    api = cluster.kubectl.get("service", "kubernetes", "default")["spec"]["clusterIP"]
    source = {"source": f"https://{api}/rows.jsonl", "sha256": "0" * 64, "tokenSecretRef": None}
    tuning.apply(small(dataset=source))
    stalled = tuning.wait_until("Stalled", reason="AccessDenied", seconds=SECONDS)
    assert f"do not allow connections to port 443 of {api}" in stalled["message"]
    assert "egress.cidrs" in stalled["message"]


@pytest.mark.finding(13, "metrics of all tenants are readable by every pod")
def test_tenant_reads_no_metric_of_the_operator(cluster: Cluster, workspace: str) -> None:
    """Neither from a pod, whose connection is blocked, nor with a token from the node."""
    host = cluster.wait_for_operator()["status"]["podIP"]
    addresses = [f"{host}:{port}" for port in (server.PORT, health.PORT)]
    task = Task(script="reach.py", image=cluster.operator_image(), given=addresses)
    found = pods.run(cluster, workspace, task)
    assert "connected" not in found.values(), found
    account = ("default", f"--namespace={workspace}")
    tenant = cluster.kubectl.run("create", "token", *account).strip()
    assert [metrics.get(host, token)[0] for token in ("", tenant)] == [401, 403]
    assert "finetune_jobs" in metrics.scrape(cluster, host)
