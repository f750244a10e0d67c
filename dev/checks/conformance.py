"""The operator together with other projects, which ``make test`` does not run: Argo CD."""

from __future__ import annotations

from checks import environment, suites
from cluster import packages
from cluster.artifacts import binaries


def run() -> int:
    """Run the conformance tests with live output. The first run builds Argo CD."""
    packages.ensure_for_argocd()
    environment.ensure()
    assets = str(binaries.ensure(*binaries.ASSETS))
    words = ["-m", "pytest", "--verbose", "tests/conformance"]
    return suites.live(words, KUBEBUILDER_ASSETS=assets)
