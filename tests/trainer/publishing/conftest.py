"""Fixtures of the tests of publishing: a volume, a registry and an object store."""

import json
from collections.abc import Iterator

import pytest
from tests.fakes import model_hub, object_store, tracking_server
from tests.fakes.model_hub import ModelHub
from tests.fakes.object_store import Store
from tests.fakes.registry import Registry
from tests.fakes.tracking_server import TrackingServer
from tests.support.trainer.fixtures import (  # noqa: F401  (pytest finds fixtures by name)
    other,
    registries,
    server,
    shared_volume,
    volume,
)
from tests.support.trainer.web import Certificate

from finetune_trainer.publishing import transfer
from finetune_trainer.publishing.oci import retries
from finetune_trainer.publishing.s3 import read_back as s3_read_back

USER = ("robot", "correct horse battery")


@pytest.fixture(scope="session")
def _store(certificate: Certificate) -> Iterator[Store]:
    with object_store.serving(certificate.context()) as found:
        yield found


@pytest.fixture
def store(_store: Store) -> Store:
    """An empty store without faults."""
    _store.reset()
    return _store


@pytest.fixture(scope="session")
def _hub(certificate: Certificate) -> Iterator[ModelHub]:
    with model_hub.serving(certificate.context()) as found:
        yield found


@pytest.fixture
def hub(_hub: ModelHub) -> ModelHub:
    """An empty hub without faults."""
    _hub.reset()
    return _hub


@pytest.fixture(scope="session")
def _second_hub(certificate: Certificate) -> Iterator[ModelHub]:
    with model_hub.serving(certificate.context()) as found:
        yield found


@pytest.fixture
def other_hub(_second_hub: ModelHub) -> ModelHub:
    """Another server than the hub."""
    _second_hub.reset()
    return _second_hub


@pytest.fixture(scope="session")
def _tracker(certificate: Certificate) -> Iterator[TrackingServer]:
    with tracking_server.serving(certificate.context()) as found:
        yield found


@pytest.fixture
def tracker(_tracker: TrackingServer) -> TrackingServer:
    """A tracking server without runs and faults."""
    _tracker.reset()
    return _tracker


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry without pauses."""
    for module in (retries, s3_read_back):
        monkeypatch.setattr(module, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(transfer, "LONGEST_PAUSE", 0.01)


@pytest.fixture
def login(server: Registry) -> dict[str, str]:  # noqa: F811
    """The environment with the credentials of the registry, which accepts nobody else."""
    server.user = USER
    return docker_config(server.host)


def docker_config(host: str, user: tuple[str, str] = USER) -> dict[str, str]:
    """Return the environment with a Docker configuration."""
    entry = {"username": user[0], "password": user[1]}
    return {"PUBLISH_MAIN_DOCKER_CONFIG_JSON": json.dumps({"auths": {host: entry}})}
