"""Permissions of the operator, and restrictions of its pod."""

from collections.abc import Iterator

import pytest
from tests.support.helm import Object, Values, render

EVERYTHING: Values = {"metrics": {"serviceMonitor": {"enabled": True}}}
READER = "finetune-operator-metrics"
SETTINGS = "finetune-operator-settings"


def _rules(*roles: Object) -> Iterator[tuple[str, str, str]]:
    """Yield group, resource and verb of every permission of the roles."""
    for role in roles:
        for rule in role["rules"]:
            for group in rule.get("apiGroups", ()):
                for resource in rule["resources"]:
                    for verb in rule["verbs"]:
                        yield group, resource, verb


def test_no_permission_for_secrets_wildcards_or_pod_subresources() -> None:
    roles = render(EVERYTHING).all("ClusterRole")
    allowed = set(_rules(*roles))
    assert allowed
    for group, resource, verb in allowed:
        assert "*" not in (group, resource, verb)
        assert verb not in ("escalate", "bind", "impersonate", "proxy")
        assert resource.split("/")[0] not in ("secrets", "serviceaccounts", "nodes")
        # Budgets select namespaces by their labels.
        assert not resource.startswith("namespaces") or (resource, verb) == ("namespaces", "list")
        assert not resource.startswith("pods/")
    urls = [rule for role in roles for rule in role["rules"] if "nonResourceURLs" in rule]
    assert urls == [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]


def test_cluster_role_has_exactly_these_permissions() -> None:
    """The complete list: a new permission must be added here."""
    by_resource: dict[str, list[str]] = {}
    for group, resource, verb in _rules(render(EVERYTHING).one("ClusterRole")):
        by_resource.setdefault(f"{resource}.{group}".rstrip("."), []).append(verb)
    assert by_resource == {
        "finetunejobs.finetune.dev": ["get", "list", "watch"],
        "finetunejobs/status.finetune.dev": ["update"],
        "finetunejobs/finalizers.finetune.dev": ["update"],
        "finetuneendpoints.finetune.dev": ["get", "list", "watch"],
        "finetuneendpoints/status.finetune.dev": ["update"],
        "finetuneendpoints/finalizers.finetune.dev": ["update"],
        "jobs.batch": ["get", "list", "watch", "create", "delete"],
        "deployments.apps": ["get", "list", "watch", "create", "patch", "delete"],
        "deployments/scale.apps": ["patch"],
        "poddisruptionbudgets.policy": ["get", "list", "watch", "create", "patch", "delete"],
        "services": ["get", "list", "watch", "create", "patch", "delete"],
        "persistentvolumeclaims": ["get", "list", "watch", "create", "patch", "delete"],
        "configmaps": ["get", "list", "watch", "create", "patch", "delete"],
        # Nothing deletes them: a change of their owners can require this permission.
        "networkpolicies.networking.k8s.io": ["get", "list", "watch", "create", "patch", "delete"],
        "pods": ["list", "watch"],
        "events": ["get", "list"],
        "events.events.k8s.io": ["create", "patch"],
    }


def test_roles_are_bound_only_to_the_service_account_of_the_operator() -> None:
    rendered = render(EVERYTHING)
    binding, budgets, profiles, metrics = sorted(
        rendered.all("ClusterRoleBinding"), key=lambda each: each["metadata"]["name"]
    )
    assert budgets["roleRef"]["name"] == "finetune-operator-budgets"
    assert budgets["subjects"] == binding["subjects"]
    assert profiles["roleRef"]["name"] == "finetune-operator-profiles"
    assert profiles["subjects"] == binding["subjects"]
    assert binding["roleRef"]["name"] == rendered.one("ClusterRole")["metadata"]["name"]
    assert metrics["roleRef"]["name"] == "finetune-operator-reviews"
    assert metrics["subjects"] == binding["subjects"]
    account = rendered.one("ServiceAccount")
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": "finetune-operator", "namespace": "finetune-system"}
    ]
    assert account["automountServiceAccountToken"] is False
    roles = [each["metadata"]["name"] for each in rendered.all("Role")]
    assert roles == ["finetune-operator-lease", SETTINGS]
    (lease,) = rendered.all("RoleBinding")
    assert lease["subjects"] == binding["subjects"]


def test_role_in_the_operator_namespace_allows_only_the_lease() -> None:
    role = render(EVERYTHING).one("Role", "finetune-operator-lease")
    assert role["metadata"]["namespace"] == "finetune-system"
    assert set(_rules(role)) == {
        ("coordination.k8s.io", "leases", verb) for verb in ("get", "watch", "update", "create")
    }
    named, creating = role["rules"]
    assert (named["resourceNames"], creating["verbs"]) == (["finetune-operator"], ["create"])


def test_the_metrics_need_no_other_permission_than_reviews() -> None:
    """The operator creates reviews; nobody may read the metrics before an administrator agrees."""
    rendered = render()
    auth = rendered.one("ClusterRole", "finetune-operator-reviews")
    assert set(_rules(auth)) == {
        ("authentication.k8s.io", "tokenreviews", "create"),
        ("authorization.k8s.io", "subjectaccessreviews", "create"),
    }
    assert rendered.one("ClusterRole", READER)
    assert READER not in {each["roleRef"]["name"] for each in rendered.all("ClusterRoleBinding")}
    plain = render({"metrics": {"secure": False}}).all("ClusterRole")
    assert not {auth["metadata"]["name"], READER} & {each["metadata"]["name"] for each in plain}


def test_watch_namespaces_replace_the_cluster_role_by_a_role_in_each() -> None:
    everywhere = render().one("ClusterRole")
    rendered = render({"watchNamespaces": ["team-a", "team-b"]})
    bound = {each["roleRef"]["name"] for each in rendered.all("ClusterRoleBinding")}
    assert bound == {
        "finetune-operator-budgets",
        "finetune-operator-profiles",
        "finetune-operator-reviews",
    }
    assert rendered.config["watchNamespaces"] == ["team-a", "team-b"]
    for kind in ("Role", "RoleBinding"):
        metadata = [each["metadata"] for each in rendered.all(kind)]
        namespaces = [each["namespace"] for each in metadata if each["name"] != SETTINGS]
        assert sorted(namespaces) == ["finetune-system", "team-a", "team-b"]
    for role in rendered.all("Role"):
        if role["metadata"]["name"] == "finetune-operator":
            assert role["rules"] == everywhere["rules"]
    for binding in rendered.all("RoleBinding"):
        assert binding["roleRef"]["kind"] == "Role"
        (subject,) = binding["subjects"]
        assert subject["namespace"] == "finetune-system"


def test_profiles_are_cluster_scoped_and_the_operator_writes_only_their_status() -> None:
    for values in ({}, {"watchNamespaces": ["team-a"]}):
        rendered = render(values)
        assert set(_rules(rendered.one("ClusterRole", "finetune-operator-profiles"))) == {
            *(("finetune.dev", "finetuneprofiles", verb) for verb in ("get", "list", "watch")),
            ("finetune.dev", "finetuneprofiles/status", "update"),
        }
        assert set(_rules(rendered.one("ClusterRole", "finetune-operator-catalog"))) == {
            ("finetune.dev", "finetuneprofiles", verb) for verb in ("get", "list", "watch")
        }
        bound = {each["roleRef"]["name"] for each in rendered.all("ClusterRoleBinding")}
        assert "finetune-operator-catalog" not in bound


def test_the_operator_writes_only_the_status_of_budgets_and_nobody_gets_the_role_to_approve() -> (
    None
):
    for values in ({}, {"watchNamespaces": ["team-a"]}):
        rendered = render(values)
        assert set(_rules(rendered.one("ClusterRole", "finetune-operator-budgets"))) == {
            *(("finetune.dev", "finetunebudgets", verb) for verb in ("get", "list", "watch")),
            ("finetune.dev", "finetunebudgets/status", "update"),
            ("", "namespaces", "list"),
            ("scheduling.k8s.io", "priorityclasses", "list"),
        }
        bound = {each["roleRef"]["name"] for each in rendered.all("ClusterRoleBinding")}
        assert "finetune-operator-approvers" not in bound
        aggregated = [
            each
            for each in rendered.all("ClusterRole")
            if any("aggregate-to" in key for key in each["metadata"]["labels"])
        ]
        assert "finetunebudgets" not in str(aggregated)


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["a"]}])
def test_the_operator_reads_queues_only_if_it_uses_them(values: Values) -> None:
    assert render(values).config["kueue"] == {"enabled": False}
    assert "kueue.x-k8s.io" not in str(render(values).all("ClusterRole"))
    rendered = render({"kueue": {"enabled": True}, **values})
    assert rendered.config["kueue"] == {"enabled": True}
    kinds = ("localqueues", "clusterqueues", "resourceflavors", "workloads")
    assert set(_rules(rendered.one("ClusterRole", "finetune-operator-kueue"))) == {
        ("kueue.x-k8s.io", kind, "list") for kind in kinds
    }


def test_the_operator_has_rights_on_records_of_usage_only_if_it_writes_them() -> None:
    assert render().config["usage"] == {"enabled": False}
    assert "finetuneusages" not in str(render().all("ClusterRole"))
    for values in ({}, {"watchNamespaces": ["team-a"]}):
        rendered = render({"usage": {"enabled": True}, **values})
        assert rendered.config["usage"] == {"enabled": True}
        assert set(_rules(rendered.one("ClusterRole", "finetune-operator-usage"))) == {
            *(("finetune.dev", "finetuneusages", verb) for verb in ("list", "create")),
            ("finetune.dev", "finetuneusages/status", "update"),
        }


@pytest.mark.parametrize(
    ("role", "covered"),
    [
        ("finetune-operator-view", {"view", "edit", "admin"}),
        ("finetune-operator-edit", {"edit", "admin"}),
    ],
)
def test_built_in_cluster_roles_are_extended_to_jobs(role: str, covered: set[str]) -> None:
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    found = render().one("ClusterRole", role)
    labels = found["metadata"]["labels"]
    assert {key.removeprefix(prefix) for key in labels if key.startswith(prefix)} == covered
    verbs = {verb for _, resource, verb in _rules(found) if resource == "finetunejobs"}
    reading = {"get", "list", "watch"}
    assert verbs == reading if role.endswith("view") else not verbs & reading
    assert {group for group, _, _ in _rules(found)} == {"finetune.dev"}
    # The operator trusts the status, so users must not be able to write it.
    written = {verb for _, resource, verb in _rules(found) if resource == "finetunejobs/status"}
    assert written <= {"get"}
    without = render({"rbac": {"aggregateRoles": False}})
    assert not [each for each in without.all("ClusterRole") if "aggregate-to" in str(each)]


@pytest.mark.parametrize("allowed", [False, True])
def test_editors_can_write_endpoints_unless_a_value_forbids_it(allowed: bool) -> None:
    """Budgets limit endpoints; profiles do not."""
    rendered = render({} if allowed else {"rbac": {"aggregateEndpoints": False}})
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    verbs: dict[str, set[str]] = {"view": set(), "edit": set(), "admin": set()}
    for role in rendered.all("ClusterRole"):
        labels = role["metadata"]["labels"]
        for covered in verbs.keys() & {key.removeprefix(prefix) for key in labels}:
            verbs[covered] |= {
                verb for _, resource, verb in _rules(role) if resource == "finetuneendpoints"
            }
    reading = {"get", "list", "watch"}
    writing = {"create", "update", "patch", "delete", "deletecollection"} if allowed else set()
    assert verbs == {"view": reading, "edit": reading | writing, "admin": reading | writing}


def test_pod_is_restricted_by_default() -> None:
    pod = render().pod
    (container,) = pod["containers"]
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "initContainers" not in pod
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert {next(iter(volume.keys() - {"name"})) for volume in pod["volumes"]} == {
        "configMap",
        "emptyDir",
    }
    assert container["resources"]["limits"]["memory"]


def test_probes_use_the_health_endpoints_of_the_operator() -> None:
    (container,) = render().pod["containers"]
    probes = ("startup", "liveness", "readiness")
    paths = {probe: container[f"{probe}Probe"]["httpGet"]["path"] for probe in probes}
    assert {container[f"{probe}Probe"]["httpGet"]["port"] for probe in probes} == {"probes"}
    assert paths == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}


def test_security_contexts_are_merged_with_the_defaults() -> None:
    overrides = {
        # The IDs that OpenShift assigns are large.
        "podSecurityContext": {"runAsUser": 1000680000, "runAsGroup": None, "fsGroup": 2000},
        "securityContext": {"readOnlyRootFilesystem": False, "capabilities": {"add": ["CHOWN"]}},
    }
    pod = render(overrides).pod
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 1000680000,
        "fsGroup": 2000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert pod["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": False,
        "capabilities": {"drop": ["ALL"], "add": ["CHOWN"]},
    }


def test_extra_env_follows_the_variables_of_the_chart() -> None:
    extra = [
        {"name": "TZ", "value": "Europe/Berlin"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "proxy", "key": "token"}}},
    ]
    env = render({"extraEnv": extra}).pod["containers"][0]["env"]
    assert [each["name"] for each in env[:2]] == ["POD_NAME", "POD_NAMESPACE"]
    assert env[2:] == extra
