"""Answers of the API server: the lines of a log, however long they are and however they end."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from kubernetes import client

from finetune_cli.cluster.api import CONNECT_SECONDS, READ_SECONDS, Cluster


class Answer:
    """The response of an API server, in parts."""

    status = 200

    def __init__(self, *parts: bytes) -> None:
        self._parts, self.is_closed = parts, False

    def stream(self, size: int) -> Any:
        yield from self._parts

    def close(self) -> None:
        self.is_closed = True

    def release_conn(self) -> None:
        pass


def cluster_of(timeouts: list[Any], *parts: bytes) -> Cluster:
    """Return a cluster that answers each request with the same parts."""
    return answering(timeouts, lambda: Answer(*parts))


def answering(timeouts: list[Any], answer: Callable[[], Answer]) -> Cluster:
    """Return a cluster that answers each request with an answer of its own."""

    def request(*arguments: Any, _request_timeout: Any, **options: Any) -> Any:
        timeouts.append(_request_timeout)
        return SimpleNamespace(response=answer())

    api = SimpleNamespace(
        configuration=SimpleNamespace(host="https://api.example.com"),
        default_headers={},
        update_params_for_auth=lambda *arguments: None,
        rest_client=SimpleNamespace(request=request),
    )
    return Cluster(api=cast(client.ApiClient, api), namespace="team", context="test")


def lines(*parts: bytes) -> list[str]:
    return list(cluster_of([], *parts).lines("/log"))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], []),
        ([b"a\nb"], ["a", "b"]),
        ([b"a\r\nb\r\n"], ["a", "b"]),
        ([b"a\r", b"\nb\r"], ["a", "b"]),
        ([b"10%\r20%\r", b"30%\n"], ["10%", "20%", "30%"]),
        ([b"\xc3", b"\xa4\n\xff"], ["\u00e4", "\ufffd"]),
        ([b"a\n\n", b"\nb"], ["a", "", "", "b"]),
    ],
)
def test_a_line_ends_as_the_program_has_written_it(parts: list[bytes], expected: list[str]) -> None:
    assert lines(*parts) == expected


@pytest.mark.parametrize(("query", "seconds"), [({}, READ_SECONDS), ({"follow": "true"}, None)])
def test_only_a_log_that_is_followed_may_be_silent(
    query: dict[str, str], seconds: float | None
) -> None:
    timeouts: list[Any] = []
    list(cluster_of(timeouts).lines("/log", **query))
    assert timeouts == [(CONNECT_SECONDS, seconds)]


def test_an_answer_that_is_not_read_to_its_end_is_closed() -> None:
    answer = Answer(b"a\nb\n", b"c\n")
    found = iter(answering([], lambda: answer).lines("/log", follow="true"))
    assert next(found) == "a"
    found.close()  # type: ignore[attr-defined]
    assert answer.is_closed


def test_a_line_without_end_is_printed_in_parts() -> None:
    part = b"x" * (1 << 14)
    found = lines(*[part] * 512, b"\nlast")
    assert found[-1] == "last"
    assert sum(map(len, found[:-1])) == 512 * len(part)
    assert max(map(len, found)) <= 1 << 20
