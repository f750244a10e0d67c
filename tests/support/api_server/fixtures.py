"""Fixtures of the tests against a real API server."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.api_server import controlplane, operator_forks, operatorprocess
from tests.support.api_server.controlplane import ControlPlane
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.operatorprocess import OperatorProcess


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A kube-apiserver with etcd and the CRD, for the whole session."""
    with controlplane.control_plane(tmp_path_factory.mktemp("control-plane")) as plane:
        yield plane


@pytest.fixture(scope="module")
def controller_manager(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """The same control plane, with the controller manager running until the module's end."""
    with controlplane.controller_manager(control_plane):
        yield control_plane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A new, empty namespace; its FineTuneJobs and pods are deleted after the test."""
    name = control_plane.namespace(f"test-{uuid.uuid4().hex[:8]}")
    yield name
    # Remaining jobs would be reconciled by the operators of all later tests, and remaining pods
    # would be scheduled, or listed with those of all namespaces. No kubelet ends pods.
    place = Namespace(control_plane, name)
    control_plane.delete(place.path("finetunejobs"))
    control_plane.delete(f"{place.path('pods')}?gracePeriodSeconds=0")


@pytest.fixture
def place(control_plane: ControlPlane, namespace: str) -> Namespace:
    """The new namespace as an object with helpers."""
    return Namespace(control_plane, namespace)


@pytest.fixture(scope="session", autouse=True)
def operators_are_forked() -> Iterator[None]:
    """Operators are forked from one process."""
    with operator_forks.server(operatorprocess.PACKAGES):
        yield


@pytest.fixture
def operator(control_plane: ControlPlane, tmp_path: Path) -> Iterator[OperatorProcess]:
    """A ready operator process."""
    with operatorprocess.operator(control_plane, tmp_path) as running:
        yield running
