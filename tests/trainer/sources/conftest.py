"""Fixtures of the tests of sources: local web, S3 and hub servers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.trainer import web
from tests.support.trainer.hub import Hub
from tests.support.trainer.stores import ROWS
from tests.support.trainer.web import Bucket, Certificate, Web

from finetune_trainer.sources import transfer


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return web.certificate(tmp_path_factory.mktemp("tls"))


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


# One service for all modules: moto keeps its state in the process.
@pytest.fixture(scope="session")
def bucket(certificate: Certificate) -> Iterator[Bucket]:
    with web.s3(certificate) as found:
        found.put("rows/train.jsonl", ROWS)
        found.put("rows/README.md", b"not rows")
        found.put("rows/deep/test.jsonl", ROWS)
        yield found


@pytest.fixture(scope="module")
def base(repositories: dict[str, str], hub: Hub) -> Path:
    """The folder of the base model that most tests use."""
    return hub.repos["models/demo/tiny"].folder


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry downloads without pauses."""
    monkeypatch.setattr(transfer, "PAUSES", (0.0, 0.0))
