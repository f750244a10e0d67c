"""The operator with exactly the permissions of the chart.

A real service account is bound as in the chart, and the API server enforces RBAC. In the lifecycle
of a job, no request is rejected and every rule of the chart is used. Both a missing rule and an
unnecessary rule fail the test.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.fakes import kubelet
from tests.integration.lifecycle import snapshot
from tests.integration.relay import Call, Relay, relay
from tests.integration.test_secure_metrics import scrape
from tests.support import signing_keys
from tests.support.api_server.controlplane import ApiError, ControlPlane, wait_until
from tests.support.api_server.manifest_files import kubectl
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.operatorprocess import operator
from tests.support.api_server.rbac import wait_until_granted, wait_until_revoked
from tests.support.helm import Rendered, render

pytestmark = pytest.mark.usefixtures("controller_manager")

SYSTEM = "finetune-system"
PROFILES = "/apis/finetune.dev/v1alpha1/finetuneprofiles"
BUDGETS = "/apis/finetune.dev/v1alpha1/finetunebudgets"
USAGES = "/apis/finetune.dev/v1alpha1/finetuneusages"
ACCOUNT = "finetune-operator"
Right = tuple[str, str, str]
"""Verb, API group, resource with its subresource."""

# Required by the admission plugin for owner references, not by a request.
IN_NO_REQUEST = {
    ("update", "finetune.dev", "finetunejobs/finalizers"),
    ("delete", "networking.k8s.io", "networkpolicies"),
    # After a conflict, a budget is read again.
    ("get", "finetune.dev", "finetunebudgets"),
    # The same, for endpoints.
    ("update", "finetune.dev", "finetuneendpoints/finalizers"),
    ("get", "finetune.dev", "finetuneendpoints"),
}


def bindings(rendered: Rendered) -> list[dict[str, Any]]:
    """Return the roles that are bound to the operator's account, and their bindings."""
    bound = [
        each
        for kind in ("RoleBinding", "ClusterRoleBinding")
        for each in rendered.all(kind)
        if any(subject["name"] == ACCOUNT for subject in each["subjects"])
    ]
    roles = {(each["roleRef"]["kind"], each["roleRef"]["name"]) for each in bound}
    return [
        *(
            each
            for each in (*rendered.all("Role"), *rendered.all("ClusterRole"))
            if (each["kind"], each["metadata"]["name"]) in roles
        ),
        *bound,
    ]


def granted(roles: list[dict[str, Any]]) -> set[Right]:
    return {
        (verb, group, resource)
        for role in roles
        for rule in role.get("rules", ())
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def right(call: Call) -> Right | None:
    """Return the permission that a request needs, None if it needs none."""
    words = call.path.strip("/").split("/")
    group, rest = ("", words[2:]) if words[0] == "api" else (words[1:2] or [""], words[3:])
    group = group if isinstance(group, str) else group[0]
    if not rest:
        return None
    if rest[0] == "namespaces" and len(rest) > 2:
        rest = rest[2:]
    resource, named = "/".join([rest[0], *rest[2:]]), len(rest) > 1
    verb = {
        "GET": "watch" if call.watches else "get" if named else "list",
        "POST": "create",
        "PUT": "update",
        "PATCH": "patch",
        "DELETE": "delete" if named else "deletecollection",
    }[call.method]
    return verb, group, resource


class Story:
    """The lifecycle of one job that needs every permission of the operator."""

    def __init__(self, place: Namespace) -> None:
        self.place, self.path = place, place.path("finetunejobs", "demo")
        self._known: set[str] = set()
        self._number = 0

    def until(self, reason: str, also: Callable[[], bool] = lambda: True, hold: str = "") -> None:
        """Act as the kubelet until Ready has the reason. hold: the stage whose pods do not end."""

        def reached() -> bool:
            for pod in self.place.items("pods"):
                if pod["metadata"]["uid"] not in self._known:
                    self._known.add(pod["metadata"]["uid"])
                    kubelet.report(self.place, pod, _pod_status(kubelet.stage_of(pod), hold))
            return self.place.reason() == reason and also()

        wait_until(f"Ready has reason {reason}", reached)

    def edit(self, **spec: Any) -> None:
        self.place.plane.merge(self.path, {"spec": spec})

    def nudge(self) -> None:
        """Enqueue the job, because the operator retries a rejected request after half a minute."""
        self._number += 1
        self.place.plane.merge(self.path, {"metadata": {"labels": {"n": str(self._number)}}})

    def run_name_conflicts(self) -> None:
        """Create an unowned object under each name that the operator uses.

        The operator reports one conflict after another.
        """
        place = self.place
        place.submit(
            spec={
                "suspend": True,
                "storage": {"accessMode": "ReadWriteMany"},
                "serving": {"replicas": 2},
                "revisionHistoryLimit": 0,
            }
        )
        self.until("SuspendedByUser")
        revision = place.job()["status"]["revision"]
        claim = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        }
        container = {"name": "c", "image": "i"}
        template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
        stage = f"demo-{revision}-prepare-1"
        others = {
            "configmaps": _named(f"demo-{revision}"),
            "persistentvolumeclaims": _named(f"demo-{revision}", spec=claim),
            "jobs": _named(stage, spec={"template": template, "suspend": True}),
        }
        spec: dict[str, Any] = {"podSelector": {}}
        place.plane.post(place.path("networkpolicies"), _named("demo-prepare", spec=spec))
        for kind, body in others.items():
            place.plane.post(place.path(kind), body)
        self.edit(suspend=False)
        self.until("NameConflict")
        last = place.path("networkpolicies", "demo-prepare")
        for kind, body in others.items():
            place.plane.delete(last)
            self.nudge()
            name = body["metadata"]["name"]
            word = {"configmaps": "ConfigMap", "jobs": "Job"}.get(kind, "PersistentVolumeClaim")
            said = f"{word} {name} exists and is not owned by this FineTuneJob"
            wait_until(said, lambda said=said: said in self.place.condition("Ready")["message"])  # type: ignore[misc]
            last = place.path(kind, name) + "?propagationPolicy=Background"
        place.plane.delete(last)
        self.nudge()

    def run_lifecycle(self) -> None:
        """Serve, edit, pause, resume, scale, stop serving, and delete the job."""
        place = self.place
        self.until("Serving")
        first = place.job()["status"]["revision"]
        self.edit(storage={"deletionPolicy": "Retain"}, serving={"allowedNamespaces": ["web"]})
        wait_until("the claim has no owner", lambda: not _owners(place))
        self.edit(training={"epochs": 2})
        self.until("Training", hold="train")
        for _ in range(2):
            # The second time increments the count of the event.
            self.edit(suspend=True)
            self.until("SuspendedByUser")
            self.edit(suspend=False, storage={"deletionPolicy": "Delete"})
            self.until("Training", hold="train")
        self.edit(serving={"replicas": 1})
        wait_until("one replica serves", lambda: _replicas(place) == [1])
        self.edit(suspend=True)
        self.until("SuspendedByUser")
        self.edit(suspend=False)
        self.until("Serving", lambda: not _of(first, place))
        self.edit(serving={"enabled": False})
        wait_until("the Service is deleted", lambda: not place.items("services"))
        place.plane.delete(self.path)
        wait_until("all objects are deleted", lambda: not snapshot(place))


def _named(name: str, **body: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, **body}


def _pod_status(stage: str, hold: str) -> dict[str, Any]:
    if stage == "serve":
        return kubelet.serving()
    return kubelet.running() if stage == hold else kubelet.completed(stage)


def _prepare_endpoint(place: Namespace) -> None:
    """Create an endpoint, and prepare its base, so that its list of names is written."""
    kind = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneEndpoint"}
    spec = {"model": {"source": "hf://acme/base"}}
    place.plane.post(place.path("finetuneendpoints"), {**kind, **_named("shared", spec=spec)})

    def is_written() -> bool:
        for pod in place.items("pods"):
            if kubelet.stage_of(pod) == "base":
                kubelet.report(place, pod, kubelet.completed("base"))
        return any(
            each["metadata"]["name"] == "shared-endpoint" for each in place.items("configmaps")
        )

    wait_until("the list of names is written", is_written)
    wait_until("the pod is created", lambda: place.items("deployments") != [])


def _owners(place: Namespace) -> list[Any]:
    claims = place.items("persistentvolumeclaims")
    return [each for claim in claims for each in claim["metadata"].get("ownerReferences", ())]


def _replicas(place: Namespace) -> list[int]:
    return [each["spec"]["replicas"] for each in place.items("deployments")]


def _of(revision: str, place: Namespace) -> list[Any]:
    kinds = ("persistentvolumeclaims", "configmaps", "jobs", "deployments")
    return [
        each
        for kind in kinds
        for each in place.items(kind)
        if each["metadata"].get("labels", {}).get("finetune.dev/revision") == revision
    ]


@pytest.fixture
def system(control_plane: ControlPlane) -> Iterator[None]:
    try:
        control_plane.namespace(SYSTEM)
    except ApiError as error:
        if error.status != 409:
            raise
    # The operator tries to settle usage that other tests have left, in namespaces of theirs.
    control_plane.delete(USAGES)
    yield
    control_plane.delete(f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases")


@pytest.fixture
def apply_chart(control_plane: ControlPlane, system: None) -> Iterator[Callable[[Rendered], str]]:
    """Return a function that applies the account and roles of a chart and returns a token."""
    with ExitStack() as stack:

        def apply(rendered: Rendered) -> str:
            documents = [rendered.one("ServiceAccount"), *bindings(rendered)]
            text = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
            done = kubectl(control_plane, "apply", "-f", "-", stdin=text)
            assert done.returncode == 0, done.stderr
            stack.callback(wait_until_revoked, control_plane, documents)
            stack.callback(kubectl, control_plane, "delete", "--wait=false", "-f", "-", stdin=text)
            wait_until_granted(control_plane, documents)
            path = f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/{ACCOUNT}/token"
            return str(control_plane.post(path, {"spec": {}})["status"]["token"])

        yield apply


class UsedPermissions:
    """The permissions used by requests through a relay, and the rejected requests."""

    def __init__(self, running: Relay, token: str) -> None:
        self.used: set[Right] = set()
        self.namespaces: set[str] = set()
        self.rejected: list[str] = []
        running.after = self._after
        way: dict[str, Any] = yaml.safe_load(running.kubeconfig.read_text())
        way["users"][0]["user"] = {"token": token}
        running.kubeconfig.write_text(yaml.safe_dump(way))
        self._relay = running

    def all_used(self) -> set[Right]:
        """Return the used permissions, including those of open watches."""
        watched = {right(call) for call in self._relay.calls if call.watches}
        return self.used | {each for each in watched if each is not None}

    def _after(self, call: Call, status: int) -> None:
        if status in (401, 403):
            self.rejected.append(f"{call.method} {call.path}: {status}")
        if (needed := right(call)) is not None:
            self.namespaces.add(call.namespace)
            self.used.add(needed)
            if call.method == "PATCH" and status == 201:
                # An apply that creates an object also needs the permission to create it.
                self.used.add(("create", *needed[1:]))


def test_with_watch_namespaces_exactly_the_rules_of_the_chart_are_used(
    control_plane: ControlPlane,
    apply_chart: Callable[[Rendered], str],
    namespace: str,
    tmp_path: Path,
) -> None:
    outside, one, two = (
        Namespace(control_plane, control_plane.namespace(f"{namespace}-{part}"))
        for part in ("outside", "one", "two")
    )
    rendered = render({"watchNamespaces": [one.name, two.name], "usage": {"enabled": True}})
    auth = [each for each in bindings(rendered) if each["kind"] == "ClusterRole"]
    names = {each["metadata"]["name"] for each in auth}
    parts = ("budgets", "profiles", "reviews", "usage")
    assert names == {f"{ACCOUNT}-{part}" for part in parts}
    token = apply_chart(rendered)
    with ExitStack() as stack:
        between = stack.enter_context(relay(control_plane, tmp_path))
        snapshot = UsedPermissions(between, token)
        outside.submit()
        two.submit()
        # The operator checks a profile, and looks for one that a job names.
        kind = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneProfile"}
        control_plane.post(PROFILES, {**kind, **_named(namespace, spec={})})
        stack.callback(control_plane.delete, f"{PROFILES}/{namespace}")
        two.submit("held", spec={"profile": "absent"})
        # The operator lists what decides about a budget, and writes its status.
        kind = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneBudget"}
        selector = {"matchLabels": {"kubernetes.io/metadata.name": "no-namespace"}}
        limits = {"namespaceSelector": selector, "period": "Day", "training": {"gpuHours": 1}}
        control_plane.post(BUDGETS, {**kind, **_named(namespace, spec=limits)})
        stack.callback(control_plane.delete, f"{BUDGETS}/{namespace}")
        for pod in ("first", "second"):
            # The second replica is a standby and watches the Lease.
            way = {"kubeconfig": between.kubeconfig, "pod": pod}
            config = {**rendered.config, "signingKeyFile": str(signing_keys.file(tmp_path))}
            running = operator(control_plane, tmp_path, config, **way)
            # The operator may review its own token, but its user may not read the metrics.
            assert scrape(stack.enter_context(running), token)[0] == 403
        story = Story(one)
        story.run_name_conflicts()
        story.run_lifecycle()
        two.wait_until_preparing()
        # The events of a pod are read some seconds after it has a node.
        wait_until("the Job has a pod", lambda: two.items("pods") != [])
        (waiting,) = two.items("pods")
        assigned = {"conditions": [{"type": "PodScheduled", "status": "True"}]}
        path = two.path("pods", waiting["metadata"]["name"])
        control_plane.merge(f"{path}/status", {"status": assigned})
        wait_until("events are read", lambda: ("list", "", "events") in snapshot.all_used())
        _prepare_endpoint(two)
    assert snapshot.rejected == []
    assert granted(bindings(rendered)) - IN_NO_REQUEST == snapshot.all_used()
    # Reviews have no namespace; RBAC rejects all other requests without one.
    assert snapshot.namespaces == {"", SYSTEM, one.name, two.name}
    assert outside.job()["status"] == {"observedGeneration": -1}
    assert not outside.items("jobs")
    for place in (outside, two):
        control_plane.delete(place.path("finetunejobs"))
        control_plane.delete(place.path("finetuneendpoints"))


def test_without_watch_namespaces_the_same_rules_are_sufficient(
    control_plane: ControlPlane,
    apply_chart: Callable[[Rendered], str],
    place: Namespace,
    tmp_path: Path,
) -> None:
    rendered = render()
    everywhere = rendered.one("ClusterRole", ACCOUNT)
    confined = render({"watchNamespaces": ["one"]})
    assert everywhere["rules"] == confined.one("Role", ACCOUNT)["rules"]
    token = apply_chart(rendered)
    with relay(control_plane, tmp_path) as between:
        snapshot = UsedPermissions(between, token)
        way = {"kubeconfig": between.kubeconfig}
        with operator(control_plane, tmp_path, rendered.config, **way):
            place.submit()
            Story(place).until("Serving")
            place.plane.delete(place.path("finetunejobs", "demo"))
    assert snapshot.rejected == []
    assert snapshot.all_used() <= granted(bindings(rendered))


def test_the_permission_for_owner_references_is_needed(
    control_plane: ControlPlane, apply_chart: Callable[[Rendered], str], namespace: str
) -> None:
    """BlockOwnerDeletion requires the permission to update the finalizers of the owner."""
    place = Namespace(control_plane, namespace)
    owner = place.submit(suspend=True)
    child = _named("child")
    child["metadata"]["ownerReferences"] = [
        {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": "demo",
            "uid": owner["metadata"]["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
    rendered = render()
    headers = {"Authorization": f"Bearer {apply_chart(rendered)}"}
    path = place.path("configmaps") + "?dryRun=All"
    control_plane.request("POST", path, child, headers=headers)
    role = rendered.one("ClusterRole", ACCOUNT)
    rules = [rule for rule in role["rules"] if rule["resources"] != ["finetunejobs/finalizers"]]
    lesser = Rendered(
        objects=tuple(
            {**each, "rules": rules} if each is role else each for each in rendered.objects
        )
    )
    apply_chart(lesser)

    def is_rejected() -> bool:
        try:
            control_plane.request("POST", path, child, headers=headers)
        except ApiError as error:
            return "cannot set blockOwnerDeletion" in str(error)
        return False

    wait_until("the request is rejected", is_rejected)
