"""Fixtures of the tests that publish models, or read published ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes import registry
from tests.fakes.registry import Registry
from tests.support.trainer import publishing
from tests.support.trainer.publishing import Volume
from tests.support.trainer.web import Certificate


@pytest.fixture(scope="session")
def registries(certificate: Certificate) -> Iterator[tuple[Registry, Registry]]:
    """Two registries on different ports, which the tests of a process share."""
    with (
        registry.serving(certificate.context()) as first,
        registry.serving(certificate.context()) as second,
    ):
        yield first, second


@pytest.fixture
def server(registries: tuple[Registry, Registry]) -> Registry:
    """An empty registry without faults."""
    registries[0].reset()
    return registries[0]


@pytest.fixture
def other(registries: tuple[Registry, Registry]) -> Registry:
    """Another server than the registry, whose answers are those of a registry, too."""
    registries[1].reset()
    return registries[1]


@pytest.fixture(scope="session")
def shared_volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    """A volume that no test changes."""
    return publishing.volume(tmp_path_factory.mktemp("volume"))


@pytest.fixture
def volume(shared_volume: Volume, tmp_path: Path) -> Volume:
    """A volume that the test may change."""
    return shared_volume.copied(tmp_path)
