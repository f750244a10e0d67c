"""Permissions that the operator must not have, checked by the API server."""

import pytest
from tests.e2e import locks
from tests.e2e.target import OPERATOR, OPERATOR_NAMESPACE, Cluster

LOCKS: dict[str, locks.How] = {}
ACCOUNT = f"--as=system:serviceaccount:{OPERATOR_NAMESPACE}:{OPERATOR}"
FORBIDDEN = (
    *(f"{verb} secrets" for verb in ("get", "list", "watch", "create", "patch", "delete")),
    "create pods",
    "create pods/exec",
    "get pods/log",
    "get nodes",
    "create clusterroles",
    "create clusterrolebindings",
    "create rolebindings",
    "create serviceaccounts/token",
    "patch finetunejobs",
    "delete finetunejobs",
)
NEEDED = ("create jobs", "patch deployments", "list pods", "update finetunejobs/status")


def _may(cluster: Cluster, action: str, *where: str) -> str:
    verb, what = action.split()
    # kubectl reads pods/log as a pod with the name log.
    kind, _, part = what.partition("/")
    below = [f"--subresource={part}"] if part else []
    done = cluster.kubectl.attempt("auth", "can-i", verb, kind, *below, ACCOUNT, *where)
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize("action", FORBIDDEN)
def test_the_operator_lacks_the_permission(cluster: Cluster, action: str) -> None:
    assert _may(cluster, action, "--all-namespaces") == "no"
    assert _may(cluster, action, f"--namespace={OPERATOR_NAMESPACE}") == "no"


@pytest.mark.parametrize("action", NEEDED)
def test_the_operator_has_a_needed_permission(cluster: Cluster, action: str) -> None:
    """The API server confirms a permission that the operator needs, so the check is valid."""
    assert _may(cluster, action, "--all-namespaces") == "yes"
