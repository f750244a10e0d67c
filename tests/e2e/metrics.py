"""Read the metrics of the operator, with the permission that the chart offers to Prometheus."""

import ssl
import time
import urllib.error
import urllib.request

from tests.support.local_cluster.target import OPERATOR, OPERATOR_NAMESPACE, Cluster

from finetune_operator.metrics_server import server

READER = "metrics-reader"
GRANTED_SECONDS = 120.0
_UNVERIFIED = ssl._create_unverified_context()


def scrape(cluster: Cluster, host: str) -> str:
    """Return the metrics of the operator pod with an address, which the node reaches directly."""
    token = reader_token(cluster)
    deadline = time.monotonic() + GRANTED_SECONDS
    while True:
        status, text = get(host, token)
        if status == 200:
            return text
        if status != 403 or time.monotonic() > deadline:
            raise RuntimeError(f"the operator answered {status}: {text}")
        time.sleep(1)


def reader_token(cluster: Cluster) -> str:
    """Return a token with the permission to read the metrics of the operator.

    It takes effect later: the authorizer of the API server watches bindings, and the operator
    caches its answers.
    """
    kubectl = cluster.kubectl
    group = "rbac.authorization.k8s.io"
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": READER, "namespace": OPERATOR_NAMESPACE},
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": READER},
            "roleRef": {
                "apiGroup": group,
                "kind": "ClusterRole",
                "name": f"{OPERATOR}-metrics",
            },
            "subjects": [
                {"kind": "ServiceAccount", "name": READER, "namespace": OPERATOR_NAMESPACE}
            ],
        },
    )
    return kubectl.run("create", "token", READER, f"--namespace={OPERATOR_NAMESPACE}").strip()


def get(host: str, token: str = "") -> tuple[int, str]:
    """Return status and text of a request from the node."""
    request = urllib.request.Request(f"https://{host}:{server.PORT}/metrics")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=90, context=_UNVERIFIED) as answer:
            return int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
