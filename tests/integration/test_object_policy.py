"""Objects that look like those of the operator, created by users with real RBAC rights."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.integration import policy
from tests.support.api_server.controlplane import ApiError, ControlPlane, wait_until
from tests.support.api_server.rbac import RBAC, may
from tests.support.attacks.forged_objects import (
    ADOPTED,
    BATCH,
    CORE,
    FORGED,
    JOB_UID,
    LABEL,
    MEMBER,
    OTHER_OWNER,
    OWNER,
    OWNER_CHANGES,
    POD,
    RESULT,
    STATUS_WRITES,
    TEMPLATE_CHANGES,
    TEMPLATE_LABELS,
    Forged,
)

EDITOR = "editor"
AUTHOR = "job-author"
EDIT = "system:aggregate-to-edit"
"""The rules of the cluster role edit, which a controller that does not run here aggregates."""
CONTROLLER = "system:serviceaccount:kube-system:job-controller"
MANAGER = "app.kubernetes.io/managed-by"
CLAIMS = "persistentvolumeclaims"
STATUS_WRITER = "status-writer"
"""An agent or tenant that may write the status of the built-in kinds, as a kubelet does."""
BINDER = "system:serviceaccount:kube-system:persistent-volume-binder"
ADDITIONAL = "system:serviceaccount:queues:controller"
CREATED = [
    pytest.param(each, id=each.name, marks=pytest.mark.finding(each.finding, each.title))
    for each in FORGED
]


@pytest.fixture(scope="module", autouse=True)
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace with the policies of the chart, in which users have the cluster role edit."""
    name = control_plane.namespace("objects-of-tenants")
    path = f"{RBAC}/clusterrolebindings"
    bound = {EDITOR: EDIT, ADDITIONAL: EDIT, CONTROLLER: EDIT, BINDER: EDIT}
    bound[STATUS_WRITER] = "objects-status"
    statuses = [f"{resource}/status" for resource in STATUS_WRITES]
    rule = {"apiGroups": ["*"], "resources": statuses, "verbs": ["patch"]}
    control_plane.post(
        f"{RBAC}/clusterroles", {"metadata": {"name": "objects-status"}, "rules": [rule]}
    )
    for number, (user, role) in enumerate(bound.items()):
        control_plane.post(
            path,
            {
                "metadata": {"name": f"objects-{number}"},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": role,
                },
                "subjects": [{"kind": "User", "name": user}],
            },
        )
    values = {"admissionPolicy": {"additionalControllers": [ADDITIONAL]}}
    with policy.installed(control_plane, values):
        for user, role in bound.items():
            verb, kind = ("create", "jobs") if role == EDIT else ("patch", "jobs/status")
            right = (user, verb, "batch", kind, name)
            wait_until(f"{right} is granted", lambda right=right: may(control_plane, *right))  # type: ignore[misc]
        yield name
    for number in range(len(bound)):
        control_plane.delete(f"{path}/objects-{number}")
    control_plane.delete(f"{RBAC}/clusterroles/objects-status")


def rejected(
    plane: ControlPlane,
    namespace: str,
    forged: Forged,
    *,
    user: str = EDITOR,
    metadata: dict[str, Any] | None = None,
) -> str | None:
    """Create an object as a user, without storing it; return the message of the rejection."""
    path = f"{forged.api}/namespaces/{namespace}/{forged.resource}?dryRun=All"
    given = forged.metadata if metadata is None else metadata
    named = {"metadata": {"name": "tried", **given}, **forged.body}
    return policy.attempt(plane, "POST", path, named, user)


@pytest.mark.parametrize("forged", CREATED)
def test_only_the_operator_and_controllers_create_marked_objects(
    control_plane: ControlPlane, namespace: str, forged: Forged
) -> None:
    message = rejected(control_plane, namespace, forged)
    assert message is not None
    assert f"reserved for the operator: {EDITOR} is neither" in message
    # The administrator may update the status of FineTuneJobs, as the operator.
    for user in ("", CONTROLLER, ADDITIONAL):
        assert rejected(control_plane, namespace, forged, user=user) is None
    if forged.metadata:
        own = {"labels": {"app": "own", "finetune.dev.example/job": "demo"}}
        assert rejected(control_plane, namespace, forged, metadata=own) is None


def store(plane: ControlPlane, namespace: str, resource: str, name: str, **metadata: Any) -> str:
    """Store an object as the administrator; return its path."""
    forged = next(each for each in FORGED if each.resource == resource)
    path = f"{forged.api}/namespaces/{namespace}/{resource}"
    plane.post(path, {"metadata": {"name": name, **metadata}, **forged.body})
    return f"{path}/{name}"


@pytest.mark.finding(*RESULT)
def test_only_the_operator_and_controllers_relabel_objects(
    control_plane: ControlPlane, namespace: str
) -> None:
    own = store(control_plane, namespace, "pods", "own-pod")
    marked = store(control_plane, namespace, "pods", "marked-pod", labels=LABEL)
    changes: tuple[tuple[str, dict[str, Any]], ...] = (
        (own, {"metadata": {"labels": LABEL}}),
        (own, {"metadata": {"ownerReferences": [OWNER]}}),
        (marked, {"metadata": {"labels": {"finetune.dev/job": None}}}),
        (marked, {"metadata": {"labels": {"finetune.dev/job": "other"}}}),
        (marked, {"metadata": {"labels": {"finetune.dev/stage": "train"}}}),
        (marked, {"spec": {"containers": [{"name": "c", "image": "tenant/other:1"}]}}),
    )
    for path, change in changes:
        strategic = merged_patch(control_plane, path, change, EDITOR)
        assert strategic is not None, change
        assert "reserved for the operator" in strategic
    debug = {"spec": {"ephemeralContainers": [{"name": "d", "image": "tenant/debug:1"}]}}
    assert merged_patch(control_plane, f"{marked}/ephemeralcontainers", debug, "") is None


@pytest.mark.finding(16, "a job uses files that a tenant planted on a reused claim")
def test_only_administrators_allow_the_reuse_of_a_claim(
    control_plane: ControlPlane, namespace: str
) -> None:
    marks = {**LABEL, "finetune.dev/job-uid": OWNER["uid"]}
    earlier = store(control_plane, namespace, CLAIMS, "earlier", labels=marks)
    own = store(control_plane, namespace, CLAIMS, "claim-of-a-tenant")
    allowed = {"metadata": {"labels": {"finetune.dev/reuse": "downloads"}}}
    for path in (earlier, own):
        message = merged_patch(control_plane, path, allowed, EDITOR)
        assert message is not None
        assert "reserved for the operator" in message
        assert merged_patch(control_plane, path, allowed, "") is None
    policy.grant(control_plane, namespace, AUTHOR)
    with pytest.raises(ApiError) as error:
        merged_patch(control_plane, earlier, allowed, AUTHOR)
    assert error.value.status == 403
    for path in (earlier, own):
        control_plane.delete(path)


@pytest.mark.parametrize(
    "resource",
    [
        pytest.param(each, marks=pytest.mark.finding(*finding))
        for each, finding in STATUS_WRITES.items()
    ],
)
def test_nobody_else_relabels_objects_with_their_subresource_status(
    control_plane: ControlPlane, namespace: str, resource: str
) -> None:
    """Without its labels, a pod is not selected by the NetworkPolicies of its job."""
    marked = store(control_plane, namespace, resource, "marked-status", labels=LABEL)
    own = store(control_plane, namespace, resource, "own-status")
    removed: dict[str, Any] = {"metadata": {"labels": {"finetune.dev/job": None}}}
    added: dict[str, Any] = {"metadata": {"labels": {"finetune.dev/reuse": "downloads"}}}
    unrelated: dict[str, Any] = {"metadata": {"labels": {"team": "x"}}}
    try:
        for path, change in ((marked, removed), (marked, added), (own, added)):
            message = merged_patch(control_plane, f"{path}/status", change, STATUS_WRITER)
            assert message is not None, change
            assert "reserved for the operator" in message
            assert merged_patch(control_plane, f"{path}/status", change, "") is None
        for path in (marked, own):
            assert merged_patch(control_plane, f"{path}/status", unrelated, STATUS_WRITER) is None
    finally:
        control_plane.delete(marked)
        control_plane.delete(own)


@pytest.mark.parametrize(
    "resource", ["configmaps", CLAIMS, "pods", "services", "jobs", "deployments", "replicasets"]
)
def test_nobody_else_hides_an_object_from_the_watches_of_the_operator(
    control_plane: ControlPlane, namespace: str, resource: str
) -> None:
    """A pending training without the label would be neither charged nor in the way of another."""
    labels = {**LABEL, MANAGER: "finetune-operator"}
    marked = store(control_plane, namespace, resource, "hidden", labels=labels)
    own = store(control_plane, namespace, resource, "own-hidden", labels={MANAGER: "Helm"})
    paths = {marked: EDITOR}
    if resource in STATUS_WRITES:
        paths[f"{marked}/status"] = STATUS_WRITER
    try:
        for value in (None, "Helm"):
            change: dict[str, Any] = {"metadata": {"labels": {MANAGER: value}}}
            for path, user in paths.items():
                message = merged_patch(control_plane, path, change, user)
                assert message is not None, (path, value)
                assert f"the label {MANAGER} of its objects" in message
                for trusted in ("", CONTROLLER):
                    # The built-in controllers may not write the status of each kind here.
                    if path == marked or not trusted:
                        assert merged_patch(control_plane, path, change, trusted) is None
            assert merged_patch(control_plane, own, change, EDITOR) is None
    finally:
        control_plane.delete(marked)
        control_plane.delete(own)


@pytest.mark.parametrize("resource", ["deployments", "replicasets"])
@pytest.mark.finding(*RESULT)
def test_no_tenant_changes_the_template_of_marked_pods(
    control_plane: ControlPlane, namespace: str, resource: str
) -> None:
    """The controller would start pods with the labels of the job, and the image of the tenant."""
    path = store_labelled(control_plane, namespace, resource, "marked", replicas=0)
    for name, change in TEMPLATE_CHANGES.items():
        template = {"spec": {"template": {"spec": change}}}
        message = merged_patch(control_plane, path, template, EDITOR)
        assert message is not None, name
        assert "pod templates of its objects" in message
        for user in (CONTROLLER, ""):
            assert merged_patch(control_plane, path, template, user) is None, (name, user)
    for key, value in TEMPLATE_LABELS.items():
        labelled = {"spec": {"template": {"metadata": {"labels": {key: value}}}}}
        message = merged_patch(control_plane, path, labelled, EDITOR)
        assert message is not None, key
        assert "pod templates of its objects" in message
        assert merged_patch(control_plane, path, labelled, CONTROLLER) is None, key
    # kubectl scale and kubectl rollout restart.
    restarted = {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}
    for allowed in ({"replicas": 0}, {"template": restarted}):
        assert merged_patch(control_plane, path, {"spec": allowed}, EDITOR) is None
    control_plane.delete(path)


def store_labelled(
    plane: ControlPlane, namespace: str, resource: str, name: str, **spec: Any
) -> str:
    """Store a workload whose pods have the label of a job, as the administrator."""
    forged = next(
        each for each in FORGED if each.resource == resource and "whose pods" in each.name
    )
    path = f"{forged.api}/namespaces/{namespace}/{resource}"
    body = {"metadata": {"name": name, "labels": LABEL}, "spec": {**forged.body["spec"], **spec}}
    plane.post(path, body)
    return f"{path}/{name}"


def test_a_queue_sets_the_placement_of_a_suspended_job(
    control_plane: ControlPlane, namespace: str
) -> None:
    path = store_labelled(control_plane, namespace, "jobs", "queued", suspend=True)
    change = {"spec": {"template": {"spec": {"nodeSelector": {"pool": "a"}}}}}
    assert merged_patch(control_plane, path, change, EDITOR) is None
    assert merged_patch(control_plane, path, labelled("kueue.x-k8s.io/podset", "m"), EDITOR) is None
    for key, value in TEMPLATE_LABELS.items():
        assert merged_patch(control_plane, path, labelled(key, value), EDITOR) is not None, key
        assert merged_patch(control_plane, path, labelled(key, value), ADDITIONAL) is None, key
    control_plane.delete(path)


def labelled(key: str, value: str) -> dict[str, Any]:
    """Return a change of a label of a pod template."""
    return {"spec": {"template": {"metadata": {"labels": {key: value}}}}}


@pytest.mark.finding(*MEMBER)
@pytest.mark.parametrize(
    "resource",
    [
        "configmaps",
        CLAIMS,
        "pods",
        "services",
        "networkpolicies",
        "poddisruptionbudgets",
        "jobs",
        "deployments",
        "replicasets",
    ],
)
def test_no_tenant_takes_an_object_from_its_owner(
    control_plane: ControlPlane, namespace: str, resource: str
) -> None:
    """The operator would neither correct nor delete it."""
    job_of_a_pod = {**OWNER, "apiVersion": "batch/v1", "kind": "Job"}
    owner = job_of_a_pod if resource in ("pods", "replicasets") else OWNER
    marks = {"labels": LABEL, "ownerReferences": [owner]}
    path = store(control_plane, namespace, resource, "taken", **marks)
    try:
        for name, owners in OWNER_CHANGES.items():
            own = [
                {**each, **_kind(owner)} if each["uid"] == owner["uid"] else each for each in owners
            ]
            change = {"metadata": {"ownerReferences": own}}
            if owner is not OWNER and name in ("another version", "another kind"):
                change = {"metadata": {"ownerReferences": owners}}
            message = policy.attempt(control_plane, "PATCH", f"{path}?dryRun=All", change, EDITOR)
            assert message is not None, name
            assert "the owners, images and pod templates of its objects" in message
            for user in (CONTROLLER, ""):
                trusted = policy.attempt(control_plane, "PATCH", f"{path}?dryRun=All", change, user)
                assert trusted is None, (name, user)
    finally:
        control_plane.delete(path)


def _kind(owner: dict[str, Any]) -> dict[str, Any]:
    return {key: owner[key] for key in ("apiVersion", "kind")} if owner is not OWNER else {}


def test_the_owners_of_other_objects_may_change(
    control_plane: ControlPlane, namespace: str
) -> None:
    path = store(control_plane, namespace, "services", "own", ownerReferences=[OTHER_OWNER])
    change: dict[str, Any] = {"metadata": {"ownerReferences": []}}
    assert policy.attempt(control_plane, "PATCH", path, change, EDITOR) is None
    control_plane.delete(path)


@pytest.mark.finding(*RESULT)
def test_no_pod_of_a_tenant_is_adopted_by_a_job(
    control_plane: ControlPlane, namespace: str
) -> None:
    """It would take the place of the pod of the Job: if it ends, the Job is complete."""
    selected = {"labels": {JOB_UID: "0f0f"}}
    pods = f"{CORE}/namespaces/{namespace}/pods"
    pod = {"metadata": {"name": "tried", **selected}, "spec": POD}
    message = policy.attempt(control_plane, "POST", f"{pods}?dryRun=All", pod, EDITOR)
    assert message is not None
    assert f"the label {JOB_UID} of pods are reserved" in message
    for user in ("", CONTROLLER, ADDITIONAL):
        assert policy.attempt(control_plane, "POST", f"{pods}?dryRun=All", pod, user) is None
    own = store(control_plane, namespace, "pods", "pod-of-nobody")
    selecting = store(control_plane, namespace, "pods", "pod-of-a-job", **selected)
    other: dict[str, Any] = {"metadata": {"labels": {JOB_UID: "0e0e"}}}
    try:
        for path in (own, selecting):
            assert merged_patch(control_plane, path, other, EDITOR) is not None
            assert merged_patch(control_plane, path, other, CONTROLLER) is None
            unrelated = {"metadata": {"labels": {"team": "x"}}}
            assert merged_patch(control_plane, path, unrelated, EDITOR) is None
    finally:
        for path in (own, selecting):
            control_plane.delete(path)


@pytest.mark.finding(*RESULT)
@pytest.mark.parametrize(("api", "resource", "spec"), ADOPTED, ids=[each[1] for each in ADOPTED])
def test_no_controller_creates_a_pod_that_another_job_adopts(
    control_plane: ControlPlane, namespace: str, api: str, resource: str, spec: dict[str, Any]
) -> None:
    if resource == "jobs":
        labels = spec["template"]["metadata"]["labels"]
        spec = {**spec, "selector": {"matchLabels": {"app": labels["app"]}}}
    path = f"{api}/namespaces/{namespace}/{resource}?dryRun=All"
    body = {"metadata": {"name": "tried"}, "spec": spec}
    message = policy.attempt(control_plane, "POST", path, body, EDITOR)
    assert message is not None
    assert "reserved for the operator" in message
    assert policy.attempt(control_plane, "POST", path, body, CONTROLLER) is None


def test_tenants_create_their_own_jobs(control_plane: ControlPlane, namespace: str) -> None:
    """The API server itself adds the label to the pod template of a Job."""
    jobs = f"{BATCH}/namespaces/{namespace}/jobs"
    body = {"metadata": {"name": "own-job"}, "spec": {"template": {"spec": POD}}}
    assert policy.attempt(control_plane, "POST", jobs, body, EDITOR) is None
    stored = control_plane.get(f"{jobs}/own-job")
    assert JOB_UID in stored["spec"]["template"]["metadata"]["labels"]
    change = {"spec": {"parallelism": 2}, "metadata": {"labels": {"team": "x"}}}
    assert policy.attempt(control_plane, "PATCH", f"{jobs}/own-job", change, EDITOR) is None
    control_plane.delete(f"{jobs}/own-job")


def merged_patch(plane: ControlPlane, path: str, change: dict[str, Any], user: str) -> str | None:
    """Send a strategic merge patch, without storing it; return the message of the rejection."""
    content = "application/strategic-merge-patch+json"
    headers = {"Impersonate-User": user} if user else {}
    try:
        plane.request("PATCH", f"{path}?dryRun=All", change, content, headers)
    except ApiError as error:
        if error.status != 422:
            raise
        return str(error)
    return None


def test_other_changes_of_marked_objects_are_allowed(
    control_plane: ControlPlane, namespace: str
) -> None:
    claim = store(control_plane, namespace, "persistentvolumeclaims", "claim", labels=LABEL)
    note: dict[str, Any] = {"metadata": {"annotations": {"a": "b"}, "labels": {"team": "x"}}}
    for user in (EDITOR, BINDER, CONTROLLER):
        assert policy.attempt(control_plane, "PATCH", claim, note, user) is None
    bound = {"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n"}}}
    assert policy.attempt(control_plane, "PATCH", claim, bound, BINDER) is None
    pod = store(control_plane, namespace, "pods", "running-pod", labels=LABEL)
    running = {"status": {"phase": "Running", "podIP": "10.0.0.1"}}
    assert policy.attempt(control_plane, "PATCH", f"{pod}/status", running, "") is None
    control_plane.delete(pod)
    # A FineTuneJob itself may have any label.
    jobs = policy.JOBS.format(namespace)
    named = policy.job("labelled")
    named["metadata"]["labels"] = {**LABEL, "argocd.argoproj.io/instance": "app"}
    policy.grant(control_plane, namespace, EDITOR)
    assert policy.attempt(control_plane, "POST", f"{jobs}?dryRun=All", named, EDITOR) is None


@pytest.mark.finding(*RESULT)
@pytest.mark.parametrize(
    "stage",
    [
        "demo-0badbeef-train-1-x7k2p",
        "demo-0badbeef-publish-1-x7k2p",
        "shared-finetune-base-1-x7k2p",
        "shared-finetune-prune-0badbee-x7k2p",
        "shared-finetune-endpoint-7d4b9c6f5-x7k2p",
        # The API server cuts the names of pods of Deployments with long names.
        f"{'a' * 40}-finetune-endpointx7k2p",
    ],
)
@pytest.mark.parametrize("verb", ["exec", "attach"])
def test_only_who_may_write_the_ledger_enters_the_pods_of_stages(
    control_plane: ControlPlane, namespace: str, verb: str, stage: str
) -> None:
    store(control_plane, namespace, "pods", stage)
    store(control_plane, namespace, "pods", "own-pod-of-a-tenant")

    def entered(name: str, user: str) -> int:
        path = f"{CORE}/namespaces/{namespace}/pods/{name}/{verb}?command=sh&container=c"
        with pytest.raises(ApiError) as error:
            control_plane.request("POST", path, None, "application/json", headers(user))
        if error.value.status == 422:
            assert "needs the permission to update finetunejobs/status" in str(error.value)
        return error.value.status

    def headers(user: str) -> dict[str, str]:
        return {"Impersonate-User": user} if user else {}

    try:
        assert entered(stage, EDITOR) == 422
        # There is no kubelet that would answer.
        assert entered(stage, "") != 422
        assert entered("own-pod-of-a-tenant", EDITOR) not in (403, 422)
    finally:
        for name in (stage, "own-pod-of-a-tenant"):
            control_plane.delete(f"{CORE}/namespaces/{namespace}/pods/{name}")


def deleted(plane: ControlPlane, place: str, user: str, options: dict[str, Any]) -> str | None:
    """Delete a job as a user; return the message of a rejection."""
    return policy.attempt(plane, "DELETE", f"{place}/orphaned", options, user)


def test_only_an_administrator_deletes_a_job_and_leaves_its_pods(
    control_plane: ControlPlane, namespace: str
) -> None:
    """They would use GPUs that no budget counts, and no limit stops."""
    place = policy.JOBS.format(namespace)
    delete = {
        "apiGroups": ["finetune.dev"],
        "resources": ["finetunejobs"],
        "verbs": ["delete", "deletecollection"],
    }
    policy.grant(control_plane, namespace, "orphaning-author", delete)
    right = ("orphaning-author", "delete", "finetune.dev", "finetunejobs", namespace)
    wait_until("the author may delete jobs", lambda: may(control_plane, *right))
    control_plane.post(place, policy.job("orphaned"))
    orphaning: list[dict[str, Any]] = [{"propagationPolicy": "Orphan"}, {"orphanDependents": True}]
    for options in orphaning:
        message = deleted(control_plane, place, right[0], options)
        assert "orphans the pods of a FineTuneJob" in str(message)
        assert "delete it without --cascade=orphan" in str(message)
    finalizer = {"metadata": {"finalizers": ["orphan"]}}
    message = policy.attempt(control_plane, "PATCH", f"{place}/orphaned", finalizer, right[0])
    assert "remove the finalizer orphan" in str(message)
    dry = {"dryRun": ["All"]}
    for policy_of_pods in ("Background", "Foreground"):
        options = {**dry, "propagationPolicy": policy_of_pods}
        assert deleted(control_plane, place, right[0], options) is None
        # As the deletion of a namespace does.
        assert policy.attempt(control_plane, "DELETE", place, options, right[0]) is None
    options = {**dry, "propagationPolicy": "Orphan"}
    message = policy.attempt(control_plane, "DELETE", place, options, right[0])
    assert "orphans the pods of a FineTuneJob" in str(message)
    assert deleted(control_plane, place, "", options) is None
    assert deleted(control_plane, place, right[0], {}) is None
