"""Answers of the API server: the lines of a log, however long they are and however they end."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from kubernetes import client

from finetune_cli.cluster.api import Cluster


class Answer:
    """The response of an API server, in parts."""

    status = 200

    def __init__(self, *parts: bytes) -> None:
        self._parts = parts

    def stream(self, size: int) -> Any:
        yield from self._parts

    def release_conn(self) -> None:
        pass


def lines(*parts: bytes) -> list[str]:
    api = SimpleNamespace(
        configuration=SimpleNamespace(host="https://api.example.com"),
        default_headers={},
        update_params_for_auth=lambda *arguments: None,
        rest_client=SimpleNamespace(
            request=lambda *arguments, **options: SimpleNamespace(response=Answer(*parts))
        ),
    )
    cluster = Cluster(api=cast(client.ApiClient, api), namespace="team", context="test")
    return list(cluster.lines("/log"))


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


def test_a_line_without_end_is_printed_in_parts() -> None:
    part = b"x" * (1 << 14)
    found = lines(*[part] * 512, b"\nlast")
    assert found[-1] == "last"
    assert sum(map(len, found[:-1])) == 512 * len(part)
    assert max(map(len, found)) <= 1 << 20
