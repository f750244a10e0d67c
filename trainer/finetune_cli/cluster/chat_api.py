"""A streamed chat with the endpoint of a job, through a port-forward to one of its pods."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from finetune_api.safety.printable import printable
from finetune_cli.cluster import port_forward
from finetune_cli.cluster.api import Cluster
from finetune_cli.errors import CommandFailed

PORT = 8000
ANSWER_SECONDS = 600.0
EVENT, DONE = b"data: ", b"[DONE]"
Message = Mapping[str, str]


class WrongKey(CommandFailed):
    """The endpoint rejects the API key."""


class Interruption:
    """Ends an answer from another thread, also while its connection waits for the pod."""

    def __init__(self) -> None:
        """No connection is open."""
        self.is_set = False
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def interrupt(self) -> None:
        """Shut the connection down, or the one that is opened later."""
        with self._lock:
            self.is_set = True
            self._shut_down()

    @contextmanager
    def of(self, connection: http.client.HTTPConnection) -> Iterator[None]:
        """Let an interruption shut a connection down within this block."""
        with self._lock:
            # The response takes the socket away from the connection.
            self._socket = connection.sock
            if self.is_set:
                self._shut_down()
        try:
            yield
        finally:
            with self._lock:
                self._socket = None

    def _shut_down(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


def answer(
    cluster: Cluster,
    pod: Mapping[str, Any],
    request: Mapping[str, Any],
    key: str | None,
    interruption: Interruption | None = None,
) -> Iterator[str]:
    """Yield the parts of an answer as they arrive. Raises CommandFailed.

    request: model, messages and sampling, as in the API of OpenAI; key: of the endpoint.
    """
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    body = json.dumps({**request, "stream": True})
    with (
        port_forward.connection(cluster, pod, PORT, seconds=ANSWER_SECONDS) as connection,
        (interruption or Interruption()).of(connection),
    ):
        try:
            connection.request("POST", "/v1/chat/completions", body, headers)
            # The response may have taken the socket away from the connection, which then leaves it
            # open.
            with connection.getresponse() as response:
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
        return WrongKey("the endpoint rejects the API key: set FTJ_API_KEY to the key")
    return CommandFailed(
        f"the endpoint answers {status}: {printable(text.decode(errors='replace'))[:500]}"
    )
