"""Publishing to a hub as a process: killed and stopped at any point, its memory and connections."""

from pathlib import Path

import pytest
from tests.fakes.model_hub import TOKEN, ModelHub
from tests.support.trainer import publishing
from tests.support.trainer.hub_target import ENVIRONMENT, REPO, hub_target
from tests.support.trainer.publishing import Process, Volume
from tests.support.trainer.web import Certificate
from tests.support.variants import variants

from finetune_api.contracts.destinations import Block, Destinations
from finetune_api.contracts.result import PublishArtifacts

PART = 100_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return publishing.volume(tmp_path_factory.mktemp("large"), shard=2_000_000)


def total(found: Volume) -> int:
    folder = found.layout.merged(publishing.BUILD)
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


@pytest.mark.parametrize(("parts", "least"), variants([(10, 5), (4, 2)], kept=[(4, 2)]))
def test_killed_at_every_part(
    large: Volume, hub: ModelHub, certificate: Certificate, parts: int, least: int
) -> None:
    """The branch has all files or none, and no complete file is sent again."""
    target, part = hub_target(large, hub, certificate), total(large) // parts
    kills = 0
    for at in range(1, parts):
        process = Process(large, target, environment=ENVIRONMENT, part=PART)
        hub.at = (hub.received_bytes + part * at, process.kill)
        complete = {*hub.large}
        if process.wait() != -9:
            break
        kills += 1
        sent = {oid for oid, _ in hub.received}
        hub.received.clear()
        assert not complete & sent, "a complete file was sent again"
        assert len(hub.repos[REPO].commits) == 1
    hub.at = None
    last = Process(large, target, environment=ENVIRONMENT, part=PART)
    assert last.wait() == 0, last.log
    assert kills >= least
    repo = hub.repos[REPO]
    assert len(repo.commits) == 2
    result = last.result.artifacts
    assert isinstance(result, PublishArtifacts)
    assert result.targets[0].digest == f"sha1:{repo.branches['main']}"
    assert "Xet" not in last.log


def test_killed_after_the_commit(large: Volume, hub: ModelHub, certificate: Certificate) -> None:
    """The next process finds the commit, although no ledger names it."""
    target = hub_target(large, hub, certificate)
    process = Process(large, target, environment=ENVIRONMENT, part=PART)
    hub.on_commit = process.kill
    assert process.wait() == -9
    sent = hub.received_bytes
    last = Process(large, target, environment=ENVIRONMENT, part=PART)
    assert last.wait() == 0, last.log
    assert hub.received_bytes == sent
    assert len(hub.repos[REPO].commits) == 2
    assert hub.repos[REPO].tags


def test_sigterm_ends_the_transfer_and_is_reported(
    large: Volume, hub: ModelHub, certificate: Certificate
) -> None:
    stopped = Process(
        large, hub_target(large, hub, certificate), environment=ENVIRONMENT, part=PART
    )
    hub.at = (total(large) // 2, stopped.stop)
    assert stopped.wait() == 143, stopped.log
    assert (stopped.result.outcome, stopped.result.reason) == ("stopped", "Stopped")
    assert isinstance(stopped.result.artifacts, PublishArtifacts)
    (found,) = stopped.result.artifacts.targets
    assert found.error is not None
    assert found.error.reason == "Stopped"
    assert len(hub.repos[REPO].commits) == 1


def test_connections_to_other_destinations_are_denied(
    large: Volume, hub: ModelHub, other_hub: ModelHub, certificate: Certificate
) -> None:
    """The hub stores its files on a server that the chart does not allow."""
    port = int(hub.url.rpartition(":")[2])
    hub.storage = other_hub.url
    allowed = Destinations(blocks=(Block(cidr="127.0.0.0/8", ports=(port,)),))
    denied = Process(
        large,
        hub_target(large, hub, certificate),
        environment=ENVIRONMENT,
        part=PART,
        destinations=allowed,
    )
    assert denied.wait() == 87, denied.log
    assert "do not allow connections to port" in denied.result.message
    assert not other_hub.requests
    assert TOKEN not in f"{denied.log}{denied.result}"


def test_memory_is_bounded(tmp_path: Path, hub: ModelHub, certificate: Certificate) -> None:
    hub.chunk = 16 << 20
    volume = publishing.volume(tmp_path, shard=96 << 20)
    process = Process(
        volume, hub_target(volume, hub, certificate), environment=ENVIRONMENT, part=PART
    )
    status, peak = process.wait_and_watch_memory()
    assert status == 0, process.log
    assert peak <= 128 << 20, f"{peak >> 20} MiB"
