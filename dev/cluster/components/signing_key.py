"""The key with which the operator of the local cluster signs statements about published models."""

from __future__ import annotations

from cluster import kubectl
from cluster.settings import OPERATOR_NAMESPACE, SIGNING_KEY_SECRET
from cluster.shell import capture

FILE = "signing.key"
"""Key of the Secret, the default of the chart."""
NEW_KEY = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]


def ensure() -> None:
    """Create the Secret with a new key unless it exists."""
    client = kubectl.local()
    if client.get("secret", SIGNING_KEY_SECRET, f"--namespace={OPERATOR_NAMESPACE}") is not None:
        return
    metadata = {"name": SIGNING_KEY_SECRET, "namespace": OPERATOR_NAMESPACE}
    client.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPERATOR_NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "stringData": {FILE: f"{capture(NEW_KEY)}\n"},
        },
    )
