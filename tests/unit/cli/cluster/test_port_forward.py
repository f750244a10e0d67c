"""A port-forward to a pod: how long it may take until it is connected."""

import socket
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
