"""Commands in pods of the local cluster: a lost connection to a pod is not a success."""

from pathlib import Path

import pytest
from tests.support.local_cluster.kubectl import EXEC_ATTEMPTS, Kubectl, KubectlError

LOSES_CONNECTIONS = """#!/bin/sh
echo call >> {calls}
[ "$(wc -l < {calls})" -le {lost} ] && exit 0
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""


def kubectl(folder: Path, *, lost: int) -> Kubectl:
    """Return a kubectl that runs commands here; the first calls print nothing and return 0."""
    program = folder / "kubectl"
    program.write_text(LOSES_CONNECTIONS.format(calls=folder / "calls", lost=lost))
    program.chmod(0o755)
    return Kubectl(program=program, kubeconfig=folder / "kubeconfig")


@pytest.mark.parametrize("lost", [0, 1, EXEC_ATTEMPTS - 1])
def test_a_command_is_repeated_until_its_end_is_seen(tmp_path: Path, lost: int) -> None:
    done = kubectl(tmp_path, lost=lost).execute("pod", "team", ["echo", "two  words"])
    assert (done.returncode, done.stdout) == (0, "two  words\n")
    assert len((tmp_path / "calls").read_text().splitlines()) == lost + 1


def test_a_connection_that_is_always_lost_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KubectlError, match="the connection was lost 5 times"):
        kubectl(tmp_path, lost=EXEC_ATTEMPTS).execute("pod", "team", ["true"])


def test_a_failed_command_is_not_repeated(tmp_path: Path) -> None:
    done = kubectl(tmp_path, lost=0).execute("pod", "team", ["sh", "-c", "echo no >&2; exit 3"])
    assert (done.returncode, done.stderr) == (3, "no\n")
    assert (tmp_path / "calls").read_text() == "call\n"
