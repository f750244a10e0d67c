"""Fixtures of the tests against a real API server."""

import uuid
from collections.abc import Iterator

import pytest
from tests.integration import controlplane
from tests.integration.controlplane import ControlPlane


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A kube-apiserver on its etcd, with the CRD installed, for the whole session."""
    with controlplane.control_plane(tmp_path_factory.mktemp("control-plane")) as plane:
        yield plane


@pytest.fixture(scope="session")
def controller_manager(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """The same control plane with the controller manager running from here on."""
    with controlplane.controller_manager(control_plane):
        yield control_plane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    """A new, empty namespace."""
    return control_plane.namespace(f"test-{uuid.uuid4().hex[:8]}")
