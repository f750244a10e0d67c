"""A port-forward to a pod: how long it may take until it is connected."""

import socket
import threading
import time

import pytest
from kubernetes import client

from finetune_cli.cluster import port_forward
from finetune_cli.cluster.api import Cluster
from finetune_cli.errors import CommandFailed

POD = {"metadata": {"name": "demo-serve", "namespace": "team"}}


@pytest.mark.timeout(120)
def test_a_server_that_does_not_answer_the_handshake_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(port_forward, "CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = f"http://127.0.0.1:{server.getsockname()[1]}"
        api = client.ApiClient(client.Configuration(host=host))
        cluster = Cluster(api=api, namespace="team", context="test")
        with (
            pytest.raises(CommandFailed, match="no connection to pod demo-serve within 0 seconds"),
            port_forward.connection(cluster, POD, 8000, seconds=60),
        ):
            pass


REFUSED = b"""HTTP/1.1 404 Not Found\r\nX-Header: 403\r\nContent-Length: 75\r\n\r\n\
{"kind":"Status","message":"pods \\"demo-serve\\" not found","reason":"NotFound"}"""


def test_a_refusal_is_shown_without_the_headers_of_the_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as connected:
                connected.recv(65536)
                connected.sendall(REFUSED)

        thread = threading.Thread(target=answer)
        thread.start()
        host = f"http://127.0.0.1:{server.getsockname()[1]}"
        api = client.ApiClient(client.Configuration(host=host))
        cluster = Cluster(api=api, namespace="team", context="test")
        with (
            pytest.raises(CommandFailed) as refused,
            port_forward.connection(cluster, POD, 8000, seconds=60),
        ):
            pass
        thread.join()
    assert str(refused.value) == (
        'no connection to pod demo-serve (Handshake status 404 Not Found: pods "demo-serve" not '
        "found): run the command again"
    )


def test_a_connection_that_is_made_too_late_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port_forward, "CONNECT_SECONDS", 0.01)

    class Forward:
        closed = False

        def close(self) -> None:
            self.closed = True

    forward = Forward()

    def connect() -> Forward:
        time.sleep(0.2)
        return forward

    with pytest.raises(TimeoutError):
        port_forward._made(connect)
    deadline = time.monotonic() + 10
    while not forward.closed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert forward.closed
