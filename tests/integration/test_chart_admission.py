"""The chart on a real API server: admission of its objects, permissions, uninstallation."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration import policy, relay
from tests.integration.relay import PASS, Call, Outcome, Relay, answer
from tests.support import helm
from tests.support.api_server.controlplane import (
    ApiError,
    ControlPlane,
    Servers,
    has,
    wait_until,
)
from tests.support.api_server.manifest_files import kubectl
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.rbac import RBAC, may, wait_until_granted, wait_until_revoked
from tests.support.helm import Values, render

NAMESPACE = "finetune-system"
OPERATOR = f"system:serviceaccount:{NAMESPACE}:finetune-operator"
SCRAPED: Values = {
    "metrics": {"scraperNamespaces": ["monitoring"], "certificateSecret": "metrics-tls"}
}
TOO_LARGE = {"note": "é" * 49}
"""Of 102 bytes."""
OVERRIDES: Values = {
    "replicaCount": 1,
    "extraEnv": [{"name": "TZ", "value": "Europe/Berlin"}],
    "podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": 2000},
    "securityContext": {"runAsUser": 1000680000},
}


@pytest.fixture(scope="module")
def system(control_plane: ControlPlane) -> str:
    """The operator's namespace."""
    try:
        return control_plane.namespace(NAMESPACE)
    except ApiError as error:
        if error.status != 409:
            raise
        return NAMESPACE


@pytest.fixture(scope="module")
def roles(control_plane: ControlPlane, system: str) -> Iterator[None]:
    """The roles and bindings of the chart, applied to the API server."""
    kinds = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
    documents = [each for each in render().objects if each["kind"] in kinds]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
    done = kubectl(control_plane, "apply", "-f", "-", stdin=listed)
    assert done.returncode == 0, done.stderr
    wait_until_granted(control_plane, documents)
    yield
    kubectl(control_plane, "delete", "--wait=false", "-f", "-", stdin=listed)
    wait_until_revoked(control_plane, documents)


@pytest.mark.parametrize(
    "values", [{}, SCRAPED, OVERRIDES], ids=["default", "scraped", "overrides"]
)
def test_api_server_accepts_all_objects(
    control_plane: ControlPlane, system: str, values: Values
) -> None:
    manifests = helm.template(values)
    done = kubectl(control_plane, "apply", "--dry-run=server", "-f", "-", stdin=manifests)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("(server dry run)") == len(render(values).objects)


@pytest.fixture
def limits(control_plane: ControlPlane) -> Iterator[None]:
    """The chart's admission policy, in force, with a limit of 100 bytes."""
    documents = [
        each
        for each in render({"admissionPolicy": {"maxAnnotationBytes": 100}}).objects
        if each["kind"].startswith("ValidatingAdmissionPolicy")
        and each["metadata"]["name"] == "finetune-operator"
    ]
    assert len(documents) == 2
    with policy.enforced(control_plane, documents):
        yield


def test_metadata_of_a_job_is_limited(
    control_plane: ControlPlane, place: Namespace, limits: None
) -> None:
    place.submit("existing", annotations={"note": "é" * 40})
    with pytest.raises(ApiError, match=r"annotations has 102 bytes; at most 100 are allowed"):
        place.submit("large", annotations=TOO_LARGE)
    place.submit("small", annotations={"note": "é" * 48})
    path = place.path("finetunejobs", "existing")
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "a"}
    owners = [{**owner, "uid": f"{number}"} for number in range(17)]
    finalizers = [f"example.com/{number}" for number in range(17)]
    large: dict[str, Any] = {
        "at most 100 are allowed: remove annotations": {"annotations": TOO_LARGE},
        "at most 100 are allowed: remove labels": {
            "labels": {f"label-{number}": "x" * 40 for number in range(3)}
        },
        "metadata.ownerReferences has 17 items; at most 16": {"ownerReferences": owners},
        "metadata.finalizers has 17 items; at most 16": {"finalizers": finalizers},
    }
    for message, metadata in large.items():
        with pytest.raises(ApiError, match=message):
            place.plane.merge(path, {"metadata": metadata})
    place.plane.merge(path, {"metadata": {"labels": {"a": "b"}, "ownerReferences": owners[:1]}})
    path_of_all = place.path("finetunejobs") + "?dryRun=All"
    # Each of these fields is a dictionary in the memory of the operator.
    for count, allowed in ((1_000, True), (20_000, False), (80_000, False)):
        fields: dict[str, Any] = {"f:spec": {f"f:a{number}": {} for number in range(count)}}
        entry = {"manager": "m", "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": fields}
        metadata = {
            "name": "managed",
            "managedFields": [{**entry, "apiVersion": "finetune.dev/v1alpha1"}],
        }
        given = {**place.job("existing"), "metadata": metadata}
        if allowed:
            place.plane.request("POST", path_of_all, given)
        else:
            with pytest.raises(ApiError, match="managedFields has more than"):
                place.plane.request("POST", path_of_all, given)


def test_pod_is_admitted_to_a_restricted_namespace(control_plane: ControlPlane) -> None:
    """The admission of the API server decides, not a list of fields in this test."""
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    control_plane.post(
        "/api/v1/namespaces", {"metadata": {"name": "restricted-chart", "labels": label}}
    )
    path = "/api/v1/namespaces/restricted-chart/pods?dryRun=All"
    pod = {"metadata": {"name": "operator"}, "spec": render().pod}
    control_plane.post(path, pod)
    spec = {**pod["spec"], "securityContext": {}}
    with pytest.raises(ApiError, match="violates PodSecurity"):
        control_plane.post(path, {**pod, "spec": spec})


@pytest.mark.parametrize(
    ("verb", "group", "resource", "allowed"),
    [
        ("watch", "finetune.dev", "finetunejobs", True),
        ("update", "finetune.dev", "finetunejobs/status", True),
        ("update", "finetune.dev", "finetunejobs/finalizers", True),
        ("create", "batch", "jobs", True),
        ("delete", "batch", "jobs", True),
        ("patch", "apps", "deployments", True),
        ("patch", "", "persistentvolumeclaims", True),
        ("create", "", "configmaps", True),
        ("create", "events.k8s.io", "events", True),
        ("update", "finetune.dev", "finetunejobs", False),
        ("delete", "finetune.dev", "finetunejobs", False),
        ("get", "", "secrets", False),
        ("list", "", "secrets", False),
        ("create", "", "pods", False),
        ("create", "", "pods/exec", False),
        ("create", "", "serviceaccounts/token", False),
        ("delete", "", "persistentvolumeclaims", True),
        ("create", "rbac.authorization.k8s.io", "rolebindings", False),
    ],
)
def test_permissions_of_the_operator(
    control_plane: ControlPlane, roles: None, verb: str, group: str, resource: str, allowed: bool
) -> None:
    assert may(control_plane, OPERATOR, verb, group, resource, "team-a") is allowed


@pytest.fixture(scope="module")
def members(controller_manager: ControlPlane, roles: None) -> str:
    """A namespace in which ``a-view``, ``a-edit`` and ``a-admin`` have these roles of the cluster.

    The controller manager aggregates the rules of the chart into each role, one after another.
    """
    plane = controller_manager
    namespace = plane.namespace("members")
    most = {"view": "list", "edit": "deletecollection", "admin": "deletecollection"}
    for role, verb in most.items():
        binding = {
            "metadata": {"name": role},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": role,
            },
            "subjects": [{"kind": "User", "name": f"a-{role}"}],
        }
        plane.post(f"{RBAC}/namespaces/{namespace}/rolebindings", binding)
        for needed in ("get", verb):
            right = (f"a-{role}", needed, "finetune.dev", "finetunejobs", namespace)
            wait_until(f"{right} is granted", lambda right=right: may(plane, *right))  # type: ignore[misc]
    return namespace


@pytest.mark.parametrize(
    ("role", "verb", "resource", "allowed"),
    [
        ("view", "get", "finetunejobs", True),
        ("view", "create", "finetunejobs", False),
        ("edit", "create", "finetunejobs", True),
        ("edit", "delete", "finetunejobs", True),
        ("edit", "get", "finetunejobs", True),
        ("edit", "update", "finetunejobs/status", False),
        ("admin", "patch", "finetunejobs", True),
    ],
)
def test_permissions_of_user_roles(
    control_plane: ControlPlane, members: str, role: str, verb: str, resource: str, allowed: bool
) -> None:
    group = "finetune.dev"
    assert may(control_plane, f"a-{role}", verb, group, resource, members) is allowed


@pytest.mark.parametrize(
    ("verb", "name", "namespace", "allowed"),
    [
        ("get", "finetune-operator", NAMESPACE, True),
        ("watch", "finetune-operator", NAMESPACE, True),
        ("update", "finetune-operator", NAMESPACE, True),
        ("create", "", NAMESPACE, True),
        ("update", "another", NAMESPACE, False),
        ("delete", "finetune-operator", NAMESPACE, False),
        ("get", "finetune-operator", "kube-system", False),
    ],
)
def test_permissions_of_the_operator_on_leases(
    control_plane: ControlPlane,
    roles: None,
    verb: str,
    name: str,
    namespace: str,
    allowed: bool,
) -> None:
    group = "coordination.k8s.io"
    assert may(control_plane, OPERATOR, verb, group, "leases", namespace, name) is allowed


def _helm(plane: ControlPlane | Relay, *arguments: str) -> str:
    command = [helm.binary(), f"--kubeconfig={plane.kubeconfig}", f"--namespace={NAMESPACE}"]
    done = subprocess.run([*command, *arguments], text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_notes_name_the_nodes_with_a_listed_gpu(control_plane: ControlPlane, system: str) -> None:
    def notes(*arguments: str) -> str:
        dry_run = ["install", "notes", str(helm.CHART), *helm.over_existing(), "--dry-run=server"]
        return _helm(control_plane, *dry_run, *arguments).partition("NOTES:")[2]

    nodes = {
        "notes-gke": {"cloud.google.com/gke-accelerator": "nvidia-l4"},
        "notes-h200": {"nvidia.com/gpu.product": "NVIDIA-H200"},
        "notes-cpu": {"pool": "cpu"},
    }
    for name, labels in nodes.items():
        control_plane.post("/api/v1/nodes", {"metadata": {"name": name, "labels": labels}})
        amounts = {} if name == "notes-cpu" else {"nvidia.com/gpu": "4"}
        path = f"/api/v1/nodes/{name}/status"
        control_plane.merge(path, {"status": {"capacity": amounts, "allocatable": amounts}})
    try:
        listed = notes()
        assert re.search(r"notes-gke +cloud\.google\.com/gke-accelerator=nvidia-l4 +4\n", listed)
        assert "notes-h200" not in listed
        assert "notes-cpu" not in listed
        missing = notes("--set=gpu.products={NVIDIA-L40S}")
        assert "WARNING: no node of this cluster has a GPU of the chart value" in missing
        assert "kubectl label node <node> nvidia.com/gpu.product=NVIDIA-L40S" in missing
        every = notes("--set-json=gpu.products=[]")
        assert re.findall(r"  notes-(\w+)", every) == ["gke", "h200"]
    finally:
        for name in nodes:
            control_plane.delete(f"/api/v1/nodes/{name}")


def test_uninstalling_keeps_crd_and_jobs(
    control_plane: ControlPlane, system: str, namespace: str
) -> None:
    path = f"/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetunejobs"
    spec = {
        "model": {"source": "hf://org/model"},
        "dataset": {"source": "hf://org/data", "format": "text"},
    }
    job = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "stays"},
        "spec": spec,
    }
    uid = control_plane.post(path, job)["metadata"]["uid"]
    deployment = f"/apis/apps/v1/namespaces/{system}/deployments/finetune-operator"

    # The CRD exists already, as after an installation with kubectl.
    _helm(control_plane, "install", "finetune-operator", str(helm.CHART), *helm.over_existing())
    assert control_plane.get(deployment)["spec"]["replicas"] == 2
    _helm(control_plane, "upgrade", "finetune-operator", str(helm.CHART), "--set=logLevel=debug")
    _helm(control_plane, "uninstall", "finetune-operator")
    # Written last: once it is enforced, the API server knows the deletion of the chart's policies.
    with policy.enforced(control_plane, []):
        pass

    with pytest.raises(ApiError, match="not found"):
        control_plane.get(deployment)
    assert control_plane.get(f"{path}/stays")["metadata"]["uid"] == uid
    _require_no_policies(control_plane)


@pytest.mark.exhaustive
def test_uninstalling_with_the_crds_leaves_nothing_that_cannot_be_deleted(tmp_path: Path) -> None:
    """Helm deletes kinds that it does not know last, so the policies go right after the CRDs.

    A policy whose parameters have lost their CRD rejects every write of a FineTuneJob. The one that
    matters is the removal of a finalizer. A running API server still allows it; one that starts
    before the policies are gone rejects it, until Helm is run again.
    """
    kinds = "/apis/finetune.dev/v1alpha1"
    jobs, profiles = f"{kinds}/finetunejobs", f"{kinds}/finetuneprofiles"
    held = {**policy.job("held"), "metadata": {"name": "held", "finalizers": ["example.com/hold"]}}

    def removal(plane: ControlPlane, query: str = "?dryRun=All") -> str:
        """Remove the finalizer; return the message of a rejection."""
        path = f"{policy.JOBS.format('default')}/held{query}"
        try:
            plane.merge(path, {"metadata": {"finalizers": None}})
        except ApiError as error:
            return str(error)
        return ""

    def decide(call: Call) -> Outcome:
        of_policy = "/validatingadmissionpolic" in call.path
        return answer(403) if call.method == "DELETE" and of_policy else PASS

    # The CRDs of the other tests stay.
    servers = Servers.prepare(tmp_path)
    with servers.running() as plane:
        plane.namespace(NAMESPACE)
        _helm(plane, "install", "finetune-operator", str(helm.CHART), "--set=crds.keep=false")
        wait_until("the kinds are served", lambda: has(plane, jobs) and has(plane, profiles))
        plane.post(policy.JOBS.format("default"), held)
        with relay.relay(plane, tmp_path) as through:
            through.decide = decide
            with pytest.raises(AssertionError, match="failed to delete"):
                _helm(through, "uninstall", "finetune-operator")
        wait_until("the profiles are gone", lambda: not has(plane, profiles))
        assert removal(plane) == ""
    with servers.running() as plane:
        wait_until("the removal is rejected", lambda: "paramKind" in removal(plane))
        _helm(plane, "uninstall", "finetune-operator")
        wait_until("the finalizer is removed", lambda: removal(plane, "") == "")
        wait_until("the jobs are gone", lambda: not has(plane, jobs))
        _require_no_policies(plane)


def _require_no_policies(plane: ControlPlane) -> None:
    for kind in ("validatingadmissionpolicies", "validatingadmissionpolicybindings"):
        listed = plane.get(f"/apis/admissionregistration.k8s.io/v1/{kind}")["items"]
        names = [each["metadata"]["name"] for each in listed]
        assert [name for name in names if name.startswith("finetune-operator")] == []
