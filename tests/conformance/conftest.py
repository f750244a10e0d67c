"""Fixtures: those of the integration tests, and Argo CD."""

from collections.abc import Iterator

import pytest
from tests.conformance import argocd
from tests.conformance.argocd import ArgoCD
from tests.integration.conftest import (  # noqa: F401  (pytest finds fixtures by name)
    control_plane,
    controller_manager,
    namespace,
    operator,
    place,
)
from tests.integration.controlplane import ControlPlane


@pytest.fixture(scope="module")
def argo(
    controller_manager: ControlPlane,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ArgoCD]:
    """Argo CD on the control plane of the tests."""
    with argocd.running(controller_manager, tmp_path_factory.mktemp("argocd")) as running:
        yield running
