"""The operator together with other projects, which ``make test`` does not run: Argo CD."""

from __future__ import annotations

import os
import subprocess

from checks import environment
from cluster import packages, paths
from cluster.artifacts import binaries


def run() -> int:
    """Run the conformance tests with live output. The first run builds Argo CD."""
    packages.ensure_for_argocd()
    environment.ensure()
    assets = str(binaries.ensure(*binaries.ASSETS))
    variables = {**os.environ, **environment.variables(), "KUBEBUILDER_ASSETS": assets}
    command = [environment.program("python"), "-m", "pytest", "--verbose", "tests/conformance"]
    return subprocess.run(command, cwd=paths.REPO, env=variables, check=False).returncode
