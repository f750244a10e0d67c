"""A streamed answer of an endpoint."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any
from unittest import mock

import pytest

from finetune_cli.cluster import chat_api, port_forward
from finetune_cli.errors import CommandFailed


def test_the_socket_of_an_answer_is_closed_although_its_error_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The page of a browser that is gone reads no error, which refers to the response."""
    ours, theirs = socket.socketpair()

    @contextmanager
    def connection(*arguments: Any, seconds: float) -> Iterator[HTTPConnection]:
        opened = HTTPConnection("demo-serve")
        opened.sock = ours
        yield opened

    monkeypatch.setattr(port_forward, "connection", connection)
    theirs.sendall(b"HTTP/1.0 200 OK\r\n\r\ndata: no JSON\n\n")
    with theirs, pytest.raises(CommandFailed) as kept:
        list(chat_api.answer(mock.Mock(), {"metadata": {"name": "demo-serve"}}, {}, None))
    assert ours.fileno() == -1
    assert "the connection to pod demo-serve was lost" in str(kept.value)
