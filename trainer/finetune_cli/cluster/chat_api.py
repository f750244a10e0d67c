"""A streamed chat with the endpoint of a job, through a port-forward to one of its pods."""

import http.client
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import portforward

from finetune_api.safety.printable import printable
from finetune_cli.cluster.api import Cluster, Forbidden
from finetune_cli.errors import CommandFailed

PORT = 8000
ANSWER_SECONDS = 600.0
EVENT, DONE = b"data: ", b"[DONE]"
Message = Mapping[str, str]


def answer(
    cluster: Cluster,
    pod: Mapping[str, Any],
    request: Mapping[str, Any],
    key: str | None,
) -> Iterator[str]:
    """Yield the parts of an answer as they arrive. Raises CommandFailed.

    request: model, messages and sampling, as in the API of OpenAI; key: of the endpoint.
    """
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    body = json.dumps({**request, "stream": True})
    with _forwarded(cluster, pod) as connection:
        try:
            connection.request("POST", "/v1/chat/completions", body, headers)
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise _refusal(response.status, response.read())
            for line in response:
                if not line.startswith(EVENT):
                    continue
                data = line[len(EVENT) :].strip()
                if data == DONE:
                    return
                yield _part(json.loads(data))
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise CommandFailed(
                f"the connection to pod {pod['metadata']['name']} was lost "
                f"({printable(str(error)) or type(error).__name__}): run the command again"
            ) from None


def _part(event: Mapping[str, Any]) -> str:
    choices: Sequence[Any] = event.get("choices") or ()
    return str((choices[0].get("delta") or {}).get("content") or "") if choices else ""


def _refusal(status: int, text: bytes) -> CommandFailed:
    if status == http.client.UNAUTHORIZED:
        return CommandFailed("the endpoint rejects the API key: set FTJ_API_KEY to the key")
    return CommandFailed(
        f"the endpoint answers {status}: {printable(text.decode(errors='replace'))[:500]}"
    )


@contextmanager
def _forwarded(cluster: Cluster, pod: Mapping[str, Any]) -> Iterator[http.client.HTTPConnection]:
    """Return a connection to the port of a pod, within this block. Raises CommandFailed."""
    metadata = pod["metadata"]
    method = client.CoreV1Api(cluster.api).connect_get_namespaced_pod_portforward
    try:
        forward = portforward(method, metadata["name"], metadata["namespace"], ports=str(PORT))
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
    connection = http.client.HTTPConnection(metadata["name"], PORT)
    connection.sock = forward.socket(PORT)
    connection.sock.setblocking(True)
    connection.sock.settimeout(ANSWER_SECONDS)
    try:
        yield connection
    finally:
        forward.close()
