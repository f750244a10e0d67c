"""The settings that users can read: what they contain, and what they never contain."""

from typing import Any

import yaml
from tests.support.helm import Values, render

from finetune_api.policy.readable_settings import FILE, NAME, NAMESPACE, ReadableSettings

SECRET = "do-not-show"
EVERYTHING: Values = {
    "defaults": {
        "model": {"tokenSecretRef": {"name": "hf-token"}},
        "training": {"learningRate": 0.00001},
        "runPolicy": {"maxGpuSeconds": 3600},
    },
    "policy": {
        "hosts": {"allow": ["minio.example.com"], "deny": []},
        "maxGpuSeconds": 7200,
        "signatures": [
            {"sources": ["hf://acme/.*"], "keys": [f"-----BEGIN PUBLIC KEY-----\n{SECRET}"]}
        ],
    },
    "gpu": {"products": ["NVIDIA-L4"], "resourceName": "nvidia.com/mig-1g.10gb"},
    "usage": {"enabled": True},
    "serving": {"env": {"TOKEN": SECRET}, "args": [f"--api-key={SECRET}"]},
    "proxy": {"url": f"http://{SECRET}.example.com:3128", "cidrs": ["10.0.0.1/32"]},
    "notifications": {"sink": {"url": f"https://events.example.com/{SECRET}"}},
    "extraEnv": [{"name": "TOKEN", "value": SECRET}],
}


def settings(values: Values | None = None) -> tuple[str, ReadableSettings]:
    made = render(values).one("ConfigMap", NAME)
    assert (made["metadata"]["namespace"], [*made["data"]]) == (NAMESPACE, [FILE])
    text = made["data"][FILE]
    return text, ReadableSettings.model_validate(yaml.safe_load(text), extra="forbid")


def test_they_are_the_defaults_and_limits_of_jobs_and_nothing_else() -> None:
    text, found = settings(EVERYTHING)
    assert SECRET not in text
    assert "acme" not in text, "the signatures of sources are a setting of the operator"
    assert found.defaults["model"] == {"tokenSecretRef": {"name": "hf-token"}}
    assert found.defaults["runPolicy"] == {"maxGpuSeconds": 3600}
    assert found.policy.hosts.allow == ("minio.example.com",)
    assert found.policy.max_gpu_seconds == 7200
    assert (found.gpu_products, found.usage_recorded) == (["NVIDIA-L4"], True)
    assert found.gpu_resource == "nvidia.com/mig-1g.10gb"


def test_the_digest_is_that_of_all_settings_of_the_operator() -> None:
    rendered = render()
    template: Any = rendered.one("Deployment")["spec"]["template"]
    assert settings()[1].digest == template["metadata"]["annotations"]["checksum/config"]
    assert settings({"logLevel": "debug"})[1].digest != settings()[1].digest
    assert settings()[1].version


def test_nobody_is_bound_by_default() -> None:
    """In some clouds, all accounts of the cloud are authenticated users of each cluster."""
    rendered = render()
    assert NAME not in [each["metadata"]["name"] for each in rendered.all("RoleBinding")]
    assert "system:authenticated" not in str(rendered.all("RoleBinding"))
    assert "system:authenticated" not in str(rendered.all("ClusterRoleBinding"))


def test_listed_subjects_may_read_this_one_object() -> None:
    readers = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "ml-engineers"}]
    rendered = render({"rbac": {"settingsReaders": readers}})
    binding = rendered.one("RoleBinding", NAME)
    assert binding["subjects"] == readers
    assert binding["roleRef"]["name"] == NAME
    (rule,) = rendered.one("Role", NAME)["rules"]
    assert rule == {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": [NAME],
        "verbs": ["get"],
    }


def test_an_administrator_can_leave_them_out() -> None:
    readers = [{"kind": "ServiceAccount", "name": "ci", "namespace": "team-a"}]
    rendered = render({"rbac": {"readableSettings": False, "settingsReaders": readers}})
    for kind in ("ConfigMap", "Role", "RoleBinding"):
        assert NAME not in [each["metadata"]["name"] for each in rendered.all(kind)]
