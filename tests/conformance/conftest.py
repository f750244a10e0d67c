"""Fixtures: those of the integration tests, Argo CD, and a release."""

from collections.abc import Iterator

import pytest
from tests.conformance import argocd
from tests.conformance import release as releases
from tests.conformance.argocd import ArgoCD
from tests.conformance.release import Release
from tests.support.api_server.controlplane import ControlPlane
from tests.support.api_server.fixtures import (  # noqa: F401  (pytest finds fixtures by name)
    control_plane,
    controller_manager,
    namespace,
    operator,
    place,
)
from tests.support.releases import (  # noqa: F401  (pytest finds fixtures by name)
    Registry,
    registry,
)


@pytest.fixture(scope="module")
def argo(
    controller_manager: ControlPlane,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ArgoCD]:
    """Argo CD on the control plane of the tests."""
    with argocd.running(controller_manager, tmp_path_factory.mktemp("argocd")) as running:
        yield running


@pytest.fixture(scope="session")
def release(
    registry: Registry,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Release]:
    """A published release of the checkout."""
    with releases.published(registry, tmp_path_factory.mktemp("release")) as published:
        yield published
