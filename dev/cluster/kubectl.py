"""kubectl against the local cluster. No call waits for ever: each has a time limit."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from cluster import binaries, paths
from cluster.shell import run

TIMEOUT = 60.0


def command(*arguments: str) -> list[str]:
    """The command line, with the local cluster's kubeconfig."""
    return [binaries.program("kubectl"), f"--kubeconfig={paths.KUBECONFIG}", *arguments]


def kubectl(
    *arguments: str, stdin: str | None = None, check: bool = True, timeout: float = TIMEOUT
) -> subprocess.CompletedProcess[str]:
    """Run kubectl; raises CommandFailed with its own words."""
    return run(command(*arguments), stdin=stdin, check=check, timeout=timeout)


def get_json(*arguments: str) -> Any:
    """``kubectl get … -o json``, parsed."""
    return json.loads(kubectl("get", *arguments, "-o", "json").stdout)


def apply(*objects: dict[str, Any]) -> None:
    """Server-side apply of these objects."""
    content = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    flags = ["--server-side", "--force-conflicts", "--field-manager=finetune-local-cluster"]
    kubectl("apply", *flags, "-f", "-", stdin=content)
