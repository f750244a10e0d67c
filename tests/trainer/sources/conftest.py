"""Fixtures of the tests of sources: local web and hub servers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.trainer import web
from tests.support.trainer.fixtures import other as elsewhere  # noqa: F401
from tests.support.trainer.fixtures import registries, shared_volume  # noqa: F401
from tests.support.trainer.fixtures import server as registry  # noqa: F401
from tests.support.trainer.hub import Hub
from tests.support.trainer.web import Certificate, Web

from finetune_trainer.sources import transfer


@pytest.fixture(scope="module")
def _server(certificate: Certificate) -> Iterator[Web]:
    with web.web(certificate) as found:
        yield found


@pytest.fixture
def site(_server: Web) -> Web:
    """The web server, reset to its initial state."""
    fresh = Web(url=_server.url)
    for name, value in vars(fresh).items():
        setattr(_server, name, value)
    return _server


@pytest.fixture(scope="module")
def base(repositories: dict[str, str], hub: Hub) -> Path:
    """The folder of the base model that most tests use."""
    return hub.repos["models/demo/tiny"].folder


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry downloads without pauses."""
    monkeypatch.setattr(transfer, "PAUSES", (0.0, 0.0))
