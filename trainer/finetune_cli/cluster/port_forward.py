"""An HTTP connection to a port of a pod, through the API server and with the user's own rights."""

import http.client
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import portforward

from finetune_api.safety.printable import printable
from finetune_cli.cluster.api import Cluster, Forbidden
from finetune_cli.errors import CommandFailed


@contextmanager
def connection(
    cluster: Cluster, pod: Mapping[str, Any], port: int, *, seconds: float
) -> Iterator[http.client.HTTPConnection]:
    """Return a connection to the port of a pod, within this block. Raises CommandFailed.

    seconds: for which each read may wait.
    """
    metadata = pod["metadata"]
    method = client.CoreV1Api(cluster.api).connect_get_namespaced_pod_portforward
    try:
        forward = portforward(method, metadata["name"], metadata["namespace"], ports=str(port))
    except ApiException as error:
        reason = printable(str(error.reason))
        if "403" in reason:
            raise Forbidden(
                f"you may not forward ports of pods in namespace {metadata['namespace']}: ask an "
                "administrator of the cluster for the right to get and create pods/portforward"
            ) from None
        raise CommandFailed(
            f"no connection to pod {metadata['name']} ({reason[:200]}): run the command again"
        ) from None
    made = http.client.HTTPConnection(metadata["name"], port)
    made.sock = forward.socket(port)
    made.sock.setblocking(True)
    made.sock.settimeout(seconds)
    try:
        yield made
    finally:
        forward.close()
