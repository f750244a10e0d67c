"""Rights that the authorizer of the API server grants.

It watches roles and bindings, so it knows a change only some time after the request that made it.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tests.support.api_server.controlplane import ControlPlane, wait_until

RBAC = "/apis/rbac.authorization.k8s.io/v1"
Object = Mapping[str, Any]


def may(
    plane: ControlPlane,
    user: str,
    verb: str,
    group: str,
    resource: str,
    namespace: str,
    name: str = "",
) -> bool:
    """Report whether a user has a right. resource: with its subresource; namespace: "" for all."""
    resource, _, subresource = resource.partition("/")
    asked = {
        "namespace": namespace,
        "verb": verb,
        "group": group,
        "resource": resource,
        "subresource": subresource,
        "name": name,
    }
    groups = ["system:authenticated"]
    if user.startswith("system:serviceaccount:"):
        groups.append("system:serviceaccounts")
    review = plane.post(
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        {"spec": {"user": user, "groups": groups, "resourceAttributes": asked}},
    )
    return bool(review["status"]["allowed"])


def wait_until_granted(plane: ControlPlane, objects: Iterable[Object]) -> None:
    """Wait until the subjects of all bindings have the rights of their roles.

    objects: the bindings and their roles; the rules of the roles are about resources.
    """
    for right in _rights(objects):
        wait_until(f"{right} is granted", lambda right=right: may(plane, *right))  # type: ignore[misc]


def wait_until_revoked(plane: ControlPlane, objects: Iterable[Object]) -> None:
    """Wait until no subject has the rights of deleted bindings; see ``wait_until_granted``."""
    for right in _rights(objects):
        wait_until(f"{right} is revoked", lambda right=right: not may(plane, *right))  # type: ignore[misc]


def _rights(objects: Iterable[Object]) -> Iterator[tuple[str, str, str, str, str, str]]:
    """Yield a right of each rule of each binding, as ``may`` takes it."""
    found = list(objects)
    roles = {(each["kind"], each["metadata"]["name"]): each for each in found if "rules" in each}
    for binding in (each for each in found if "roleRef" in each):
        reference = binding["roleRef"]
        for subject in binding["subjects"]:
            user = subject["name"]
            if subject["kind"] == "ServiceAccount":
                user = f"system:serviceaccount:{subject['namespace']}:{user}"
            for rule in roles[reference["kind"], reference["name"]]["rules"]:
                yield (
                    user,
                    rule["verbs"][0],
                    rule["apiGroups"][0],
                    rule["resources"][0],
                    binding["metadata"].get("namespace", ""),
                    rule.get("resourceNames", [""])[0],
                )
