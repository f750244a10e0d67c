"""An HTTP connection to a port of a pod, through the API server and with the user's own rights."""

import http.client
import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import portforward

from finetune_api.safety.printable import printable
from finetune_cli.cluster.api import Cluster, Forbidden
from finetune_cli.errors import CommandFailed

BETWEEN = " -+-+- "
"""Between status, headers and body in the text of a WebSocket that is refused."""
MESSAGE = re.compile(r'"message": ?"(.*?[^\\])"')
"""In the body, which has quotes with backslashes."""
CONNECT_SECONDS = 45.0
"""Longer than the API server waits for a kubelet, so that its answer is the one that is shown."""


@contextmanager
def connection(
    cluster: Cluster, pod: Mapping[str, Any], port: int, *, seconds: float
) -> Iterator[http.client.HTTPConnection]:
    """Return a connection to the port of a pod, within this block. Raises CommandFailed.

    seconds: for which each read may wait.
    """
    metadata = pod["metadata"]
    method = client.CoreV1Api(cluster.api).connect_get_namespaced_pod_portforward
    where = metadata["name"], metadata["namespace"]
    try:
        forward = _made(lambda: portforward(method, *where, ports=str(port)))
    except TimeoutError:
        raise CommandFailed(
            f"no connection to pod {metadata['name']} within {CONNECT_SECONDS:.0f} seconds: check "
            "that a proxy between you and the API server passes WebSockets, and run the command "
            "again"
        ) from None
    except ApiException as error:
        reason = _answer(printable(str(error.reason)))
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


def _made(connect: Callable[[], Any]) -> Any:
    """Return a port-forward. The client has no timeout for it. Raises TimeoutError."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    given_up = threading.Event()

    def work() -> None:
        try:
            answers.put(connect())
        except Exception as error:
            answers.put(error)
        if given_up.is_set():
            close_unused()

    def close_unused() -> None:
        with suppress(queue.Empty):
            unused = answers.get_nowait()
            if not isinstance(unused, Exception):
                unused.close()

    # A daemon: the program ends although the thread waits.
    threading.Thread(target=work, daemon=True).start()
    try:
        answer = answers.get(timeout=CONNECT_SECONDS)
    except BaseException as error:
        # Also Ctrl-C: a connection that is made later has no user.
        given_up.set()
        close_unused()
        raise (TimeoutError() if isinstance(error, queue.Empty) else error) from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _answer(reason: str) -> str:
    """Return status and message of the answer to a WebSocket, without its headers."""
    status, _, rest = reason.partition(BETWEEN)
    message = MESSAGE.search(rest.rpartition(BETWEEN)[2])
    return status if message is None else f"{status}: {message[1].replace(chr(92), '')}"
