"""Downloads from a hub: retries and redirects. Other tests of hubs: test_prepare.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from tests.support.trainer.hub import Hub, serving
from tests.support.trainer.stores import DATA

from finetune_trainer.errors import (
    AccessDenied,
    Transient,
)
from finetune_trainer.sources import transfer
from finetune_trainer.sources.hub import Hub as HubStore


@pytest.fixture
def weights(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Hub, HubStore]]:
    """A hub with a repository of one file, and the store that reads the repository."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "a.safetensors").write_bytes(DATA)
    source = hub.add("model", "demo/weights", tmp_path / "repository")
    yield hub, HubStore(kind="model", source=source, revision="main", token="secret", ca_file=None)
    hub.answers.clear()
    hub.cuts.clear()
    hub.cdn = ""


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_busy_hub_is_retried_at_the_same_byte(
    weights: tuple[Hub, HubStore], tmp_path: Path, status: int
) -> None:
    hub, store = weights
    found, name = store.pin(), "a.safetensors"
    hub.answers[name], hub.cuts[name] = [status, 200, status], [100_000]
    hub.ranges.clear()
    store.download(found, [name], tmp_path)
    asked = [each for _, each in hub.ranges]
    assert asked == [None, None, "bytes=100000-", "bytes=100000-"]
    assert (tmp_path / name).read_bytes() == DATA
    (tmp_path / name).unlink()
    hub.answers[name] = [status] * 10
    with pytest.raises(Transient, match=rf"interrupted at 0 of 300000 bytes \(HTTP {status} from"):
        store.download(found, [name], tmp_path)


@pytest.mark.parametrize("status", [403, 404, 503])
def test_refusal_of_a_redirect_target_is_transient(
    weights: tuple[Hub, HubStore], tmp_path: Path, status: int
) -> None:
    hub, store = weights
    found, name = store.pin(), "a.safetensors"
    with serving() as cdn:
        hub.cdn, cdn.refusing = cdn.url, status
        with pytest.raises(
            Transient, match=r"The hub redirects to this host, so the token is not the cause"
        ):
            store.download(found, [name], tmp_path)
    assert len(cdn.requests) == len(transfer.PAUSES)
    hub.answers[name] = [403]
    with pytest.raises(AccessDenied, match=r"the token in model\.tokenSecretRef is invalid"):
        store.download(found, [name], tmp_path)
