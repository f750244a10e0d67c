"""A user with some rights in one namespace, and the kubeconfig of this user."""

from pathlib import Path
from typing import Any

import yaml
from tests.support.api_server.controlplane import ControlPlane
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.rbac import RBAC, wait_until_granted


def kubeconfig(place: Namespace, folder: Path, *rules: dict[str, Any]) -> Path:
    """Return the path of the kubeconfig of a new user who has the rights of some rules."""
    config = yaml.safe_load(place.plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token(place, *rules)}
    path = folder / "limited"
    path.write_text(yaml.safe_dump(config))
    return path


def token(place: Namespace, *rules: dict[str, Any]) -> str:
    """Return the token of a new user who has the rights of some rules."""
    made_token = token_of(place.plane, place.name, "user")
    role = {"metadata": {"name": "user"}, "rules": list(rules)}
    subject = {"kind": "ServiceAccount", "name": "user", "namespace": place.name}
    group = "rbac.authorization.k8s.io"
    binding = {
        "metadata": {"name": "user"},
        "roleRef": {"kind": "Role", "name": "user", "apiGroup": group},
        "subjects": [subject],
    }
    made = [
        place.plane.post(f"{RBAC}/namespaces/{place.name}/roles", role),
        place.plane.post(f"{RBAC}/namespaces/{place.name}/rolebindings", binding),
    ]
    wait_until_granted(
        place.plane,
        [each | {"kind": kind} for each, kind in zip(made, ("Role", "RoleBinding"), strict=True)],
    )
    return made_token


def token_of(plane: ControlPlane, namespace: str, account: str) -> str:
    """Create a ServiceAccount and return a token."""
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    plane.post(accounts, {"metadata": {"name": account}})
    answer: dict[str, Any] = plane.post(f"{accounts}/{account}/token", {"spec": {}})
    return str(answer["status"]["token"])
