"""Reads of the local cluster through kubectl."""

from pathlib import Path

import pytest

from cluster import kubectl
from cluster.errors import CommandFailed

PROGRAM = """#!/bin/sh
echo >> {calls}
if [ $(wc -l < {calls}) -lt {answers_at} ]; then echo "{error}" >&2; exit 1; fi
echo '{{"kind": "Node"}}'
"""
TIMEOUT = "Unable to connect to the server: net/http: TLS handshake timeout"


def client(folder: Path, *, error: str, answers_at: int) -> kubectl.Client:
    """Return a client whose kubectl answers from its n-th call on."""
    program = folder / "kubectl"
    program.write_text(PROGRAM.format(calls=folder / "calls", error=error, answers_at=answers_at))
    program.chmod(0o755)
    return kubectl.Client(kubectl_program=str(program), helm_program="", kubeconfig=None)


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubectl, "READ_PAUSE", 0.0)


def test_a_read_is_repeated_if_the_api_server_does_not_answer(tmp_path: Path) -> None:
    assert client(tmp_path, error=TIMEOUT, answers_at=2).get("node") == {"kind": "Node"}


@pytest.mark.parametrize(("error", "calls"), [(TIMEOUT, 3), ("Error from server (Forbidden)", 1)])
def test_a_read_that_fails_ends_with_the_error(tmp_path: Path, error: str, calls: int) -> None:
    with pytest.raises(CommandFailed) as failure:
        client(tmp_path, error=error, answers_at=9).get("node")
    assert error in str(failure.value)
    assert len((tmp_path / "calls").read_text().splitlines()) == calls
