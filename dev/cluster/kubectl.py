"""kubectl and helm calls to one cluster, each with a timeout."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from cluster import paths
from cluster.artifacts import binaries
from cluster.errors import CommandFailed, Unsupported
from cluster.shell import run

TIMEOUT = 60.0
OWNER = "finetune-local-cluster"
UNREACHABLE = "Unable to connect to the server"
READ_ATTEMPTS, READ_PAUSE = 3, 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Client:
    """Access to a cluster; ``kubeconfig`` None means the current context of the user."""

    kubectl_program: str
    helm_program: str
    kubeconfig: Path | None

    def _options(self) -> list[str]:
        return [f"--kubeconfig={self.kubeconfig}"] if self.kubeconfig else []

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of a kubectl call."""
        return [self.kubectl_program, *self._options(), *arguments]

    def helm(self, *arguments: str) -> list[str]:
        """Return the command line of a helm call."""
        return [self.helm_program, *self._options(), *arguments]

    def kubectl(
        self,
        *arguments: str,
        stdin: str | None = None,
        check: bool = True,
        timeout: float = TIMEOUT,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl. Raises CommandFailed with its output."""
        return run(self.command(*arguments), stdin=stdin, check=check, timeout=timeout)

    def get(self, *arguments: str) -> Any:
        """Return the parsed output of ``kubectl get -o json``; None for a missing object.

        Reading is repeated if the API server does not answer, as happens on a busy machine.
        """
        output = self._read("get", *arguments, "--ignore-not-found", "-o", "json")
        return json.loads(output) if output.strip() else None

    def _read(self, *arguments: str) -> str:
        for _ in range(READ_ATTEMPTS - 1):
            try:
                return self.kubectl(*arguments).stdout
            except CommandFailed as error:
                if UNREACHABLE not in str(error):
                    raise
            time.sleep(READ_PAUSE)
        return self.kubectl(*arguments).stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply these objects on the server side."""
        content = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        flags = ["--server-side", "--force-conflicts", f"--field-manager={OWNER}"]
        self.kubectl("apply", *flags, "-f", "-", stdin=content)


def local() -> Client:
    """Return access to the local cluster, with its own programs."""
    return Client(
        kubectl_program=binaries.program("kubectl"),
        helm_program=binaries.program("helm"),
        kubeconfig=paths.KUBECONFIG,
    )


def current() -> Client:
    """Return access to the current context of the user, with the programs on the PATH."""
    programs = {name: shutil.which(name) for name in ("kubectl", "helm")}
    missing = [name for name, path in programs.items() if path is None]
    if missing:
        raise Unsupported(
            f"{' and '.join(missing)} not found on the PATH",
            hint='install them, or run: export PATH="$(python3 dev/cluster assets):$PATH"',
        )
    return Client(
        kubectl_program=str(programs["kubectl"]),
        helm_program=str(programs["helm"]),
        kubeconfig=None,
    )
