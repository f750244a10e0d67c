"""Tenants forge objects and files of the operator; each test has the number of its finding.

Objects are forged twice: by the tenant, whom the admission policy of objects stops, and by an
administrator, who stands for a cluster without this policy.
"""

import json
from typing import Any

import pytest
from tests.e2e import pods
from tests.e2e.authors import AUTHOR, EDITOR, admit, make_editor, submit
from tests.e2e.kubectl import Object
from tests.e2e.pods import Task
from tests.e2e.target import OPERATOR, OPERATOR_NAMESPACE, Cluster, namespaces
from tests.e2e.tuning import JOB, Tuning, small

SECONDS = 600.0
HUGE = {"memory": "1Ti"}
"""More than the node has: the pod stays Pending."""
NOWHERE = {"placement": {"nodeSelector": {"example.com/node": "none"}}}
DENIED = "are reserved for the operator"
CONFIGMAPS = {
    "apiGroups": [""],
    "resources": ["configmaps"],
    "verbs": ["get", "list", "create", "update", "patch", "delete"],
}
CREATE = ("create", f"--as={AUTHOR}", "-f", "-")
PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "create", "delete"]}


def reference(job: Object) -> dict[str, Any]:
    """Return a controller reference to a job."""
    identity = {name: job["metadata"][name] for name in ("name", "uid")}
    kind = {name: job[name] for name in ("apiVersion", "kind")}
    return {**kind, **identity, "controller": True, "blockOwnerDeletion": True}


def prepare_job(tuning: Tuning) -> Object:
    """Return the Job of the first attempt at data preparation, once it exists."""
    found: Object = tuning.cluster.record.wait(
        f"{tuning.name} has a Job",
        lambda: next(iter(tuning.jobs("prepare")), None),
        seconds=SECONDS,
    )
    return found


@pytest.mark.finding(2, "a ConfigMap decides about the image of the pods")
def test_a_forged_revision_changes_no_image(
    cluster: Cluster, tuning: Tuning, workspace: str
) -> None:
    kubectl = cluster.kubectl
    admit(cluster, workspace, CONFIGMAPS)
    assert submit(cluster, tuning, small(**NOWHERE, suspend=True)) == ""
    revision = tuning.wait("revision", lambda now: now.get("revision"), seconds=SECONDS)
    job = kubectl.get("ftj", tuning.name, workspace)
    hostile = {"images": dict.fromkeys(("trainer", "serving", "operator"), "evil.example/image:1")}
    forged = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "zz-mine",
            "namespace": workspace,
            "labels": {JOB: tuning.name, "finetune.dev/revision": revision},
            "ownerReferences": [reference(job)],
        },
        "data": {"job.json": "{}", "operator.json": json.dumps(hostile)},
    }
    denied = kubectl.attempt(*CREATE, stdin=json.dumps(forged))
    assert DENIED in denied.stderr, denied.stderr
    # The tenant may create other ConfigMaps.
    plain = {**forged, "metadata": {"name": "plain", "namespace": workspace}}
    kubectl.run(*CREATE, stdin=json.dumps(plain))
    kubectl.apply(forged)
    change = json.dumps({"spec": {"suspend": False}})
    edit = ("patch", "ftj", tuning.name, f"--namespace={workspace}", f"--as={AUTHOR}")
    kubectl.run(*edit, "--type=merge", f"--patch={change}")
    (container,) = prepare_job(tuning)["spec"]["template"]["spec"]["containers"]
    assert container["image"] == cluster.trainer_image()
    own = kubectl.get("configmap", f"{tuning.name}-{revision}", workspace)
    (recorded,) = tuning.wait(
        "the ledger has the revision", lambda now: now.get("revisions"), seconds=SECONDS
    )
    for text in (own["data"]["operator.json"], recorded["frozen"]["operator"]):
        assert json.loads(text)["images"]["trainer"]["image"] == cluster.trainer_image()


@pytest.mark.finding(3, "a response of a pod stops the operator")
def test_a_hostile_pod_delays_no_job_of_another_tenant(cluster: Cluster) -> None:
    attacked, other = "e2e-hostile-pod", "e2e-hostile-pod-neighbor"
    with namespaces(cluster, attacked, other):
        admit(cluster, attacked, PODS)
        tuning = Tuning(cluster=cluster, namespace=attacked, name="small").apply(small(**NOWHERE))
        genuine = prepare_job(tuning)
        labels = genuine["spec"]["template"]["metadata"]["labels"]
        before = restarts(cluster)
        # The Job controller counts it as the pod of the Job, and deletes the one without a node.
        (node,) = cluster.kubectl.run("get", "nodes", "-o", "name").split()
        task = Task(
            script="hostile_metrics.py",
            image=cluster.operator_image(),
            labels=labels,
            owners=[reference(genuine)],
            node=node.removeprefix("node/"),
            ready="/tmp/scraped",
        )
        _, pod = pods.objects("forged", attacked, task)
        denied = cluster.kubectl.attempt(*CREATE, stdin=json.dumps(pod))
        assert DENIED in denied.stderr, denied.stderr
        with pods.started(cluster, attacked, task) as name:
            pods.wait_until_ready(cluster, attacked, name, seconds=SECONDS)
            neighbor = Tuning(cluster=cluster, namespace=other, name="small")
            prepare_job(neighbor.apply(small(**NOWHERE)))
            assert restarts(cluster) == before


def restarts(cluster: Cluster) -> dict[str, int]:
    """Return the restarts of the containers of the operator, by pod."""
    selector = f"--selector=app.kubernetes.io/name={OPERATOR}"
    found = cluster.kubectl.run(
        "get", "pods", f"--namespace={OPERATOR_NAMESPACE}", selector, "-o", "json"
    )
    return {
        pod["metadata"]["uid"]: sum(
            each["restartCount"] for each in pod["status"]["containerStatuses"]
        )
        for pod in json.loads(found)["items"]
    }


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
