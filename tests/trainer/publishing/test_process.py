"""The publish stage as a process: killed and stopped at any point, its memory and its connections.

A process that is killed leaves nothing behind, and the next one sends no finished blob and no
finished part again.
"""

import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.object_store import Store
from tests.fakes.registry import Registry
from tests.support.trainer import publishing
from tests.support.trainer.publishing import Process, Volume
from tests.support.trainer.web import Certificate
from tests.support.variants import variants
from tests.trainer.publishing.conftest import USER, docker_config

from finetune_api.contracts.destinations import Block, Destinations
from finetune_api.contracts.result import PublishArtifacts

PART = 250_000
SHARD = 2_000_000
S3_KEYS = {
    "PUBLISH_MAIN_AWS_ACCESS_KEY_ID": "PUBLISHER",
    "PUBLISH_MAIN_AWS_SECRET_ACCESS_KEY": "very-secret-key",
}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return publishing.volume(tmp_path_factory.mktemp("large"), shard=SHARD)


def to_oci(found: Volume, server: Registry, certificate: Certificate) -> dict[str, Any]:
    oci = {"repository": f"{server.host}/team/tiny", "ca": str(certificate.authority)}
    return found.target("merged", oci=oci, tags=["latest"])


def to_s3(found: Volume, store: Store, certificate: Certificate) -> dict[str, Any]:
    s3 = {"uri": "s3://models/a", "endpoint": store.url, "ca": str(certificate.authority)}
    return found.target("merged", s3=s3)


def total(found: Volume) -> int:
    folder = found.layout.merged(publishing.BUILD)
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


@pytest.mark.parametrize(("parts", "least"), variants([(10, 5), (4, 2)], kept=[(4, 2)]))
def test_killed_at_every_part_to_a_registry(
    large: Volume, server: Registry, certificate: Certificate, parts: int, least: int
) -> None:
    """Each process is killed after another part; the registry forgets unfinished blobs."""
    server.user, server.forgets = USER, True
    target, part = to_oci(large, server, certificate), total(large) // parts
    kills = 0
    for _ in range(parts):
        process = Process(large, target, environment=docker_config(server.host), part=PART)
        server.at = (server.received + part, process.kill)
        if process.wait() != -9:
            break
        kills += 1
        assert not server.manifests, "no name refers to a part of the model"
    server.at = None
    last = Process(large, target, environment=docker_config(server.host), part=SHARD * 2)
    assert last.wait() == 0, last.log
    assert kills >= least
    assert max(Counter(server.finished).values()) == 1
    published = last.result.artifacts
    assert isinstance(published, PublishArtifacts)
    assert set(server.manifests) == {
        "tiny-1-merged",
        "latest",
        published.targets[0].digest,
    }


@pytest.mark.parametrize(("parts", "least"), variants([(10, 8), (4, 3)], kept=[(4, 3)]))
def test_killed_at_every_part_to_a_store(
    large: Volume, store: Store, certificate: Certificate, parts: int, least: int
) -> None:
    target, part = to_s3(large, store, certificate), total(large) // parts
    kills = 0
    for at in range(1, parts):
        process = Process(large, target, environment=S3_KEYS, part=PART)
        store.at = (part * at, process.kill)
        if process.wait() != -9:
            break
        kills += 1
        assert not any(key.endswith("/manifest.json") for key in store.objects)
    store.at = None
    last = Process(large, target, environment=S3_KEYS, part=PART)
    assert last.wait() == 0, last.log
    assert kills >= least
    assert max(Counter((key, part) for key, part, _ in store.received).values()) == 1
    assert sum(key.endswith("/manifest.json") for key in store.objects) == 1
    assert store.written[-1].endswith("/manifest.json")
    assert not store.uploads


@pytest.mark.parametrize("kind", ["oci", "s3"])
def test_sigterm_finishes_the_part_and_reports(
    large: Volume, server: Registry, store: Store, certificate: Certificate, kind: str
) -> None:
    if kind == "oci":
        target, faults = to_oci(large, server, certificate), server
    else:
        target, faults = to_s3(large, store, certificate), store  # type: ignore[assignment]
    stopped = Process(large, target, environment=S3_KEYS, part=PART)
    faults.at = (total(large) // 2, stopped.stop)
    assert stopped.wait() == 143, stopped.log
    result = stopped.result
    assert (result.outcome, result.reason) == ("stopped", "Stopped")
    assert isinstance(result.artifacts, PublishArtifacts)
    (found,) = result.artifacts.targets
    assert found.error is not None
    assert found.error.reason == "Stopped"
    assert found.sent_bytes
    if kind == "s3":
        # The part was stored before the process ended, so all bytes count.
        assert sum(size for _, _, size in store.received) == store.bytes
    else:
        assert all(len(data) % PART == 0 for data in server.uploads.values())


def test_result_and_log_have_no_credentials(
    large: Volume, server: Registry, certificate: Certificate
) -> None:
    server.user = ("robot", "another")
    target = to_oci(large, server, certificate)
    target["oci"]["repository"] = f"{server.host}/team/{USER[0]}"
    failed = Process(large, target, environment=docker_config(server.host), part=PART)
    assert failed.wait() == 87, failed.log
    result = failed.result
    assert (result.outcome, result.reason) == ("failed", "PublishFailed")
    assert "AccessDenied" in result.message
    assert USER[1] not in f"{failed.log}{result}"
    retried = Process(
        large,
        to_oci(large, server, certificate) | {"content": "0" * 64},
        environment={},
        part=PART,
    )
    assert retried.wait() == 87


def test_connections_to_other_destinations_are_denied(
    large: Volume, server: Registry, other: Registry, certificate: Certificate
) -> None:
    """The registry redirects to a server that the chart does not allow."""
    port = int(server.host.partition(":")[2])
    other.blobs = server.blobs
    server.redirect = f"https://{other.host}/"
    allowed = Destinations(blocks=(Block(cidr="127.0.0.0/8", ports=(port,)),))
    denied = Process(
        large,
        to_oci(large, server, certificate),
        environment={},
        part=PART,
        destinations=allowed,
    )
    assert denied.wait() == 87, denied.log
    assert "do not allow connections to port" in denied.result.message
    assert not other.requests
    assert "latest" not in server.manifests


@pytest.mark.parametrize("kind", ["oci", "s3"])
def test_memory_is_bounded(
    tmp_path: Path, server: Registry, store: Store, certificate: Certificate, kind: str
) -> None:
    """A file of 96 MiB needs no more memory than one part."""
    volume = publishing.volume(tmp_path, shard=96 << 20)
    target = (
        to_oci(volume, server, certificate) if kind == "oci" else to_s3(volume, store, certificate)
    )
    process = Process(volume, target, environment=S3_KEYS, part=16 << 20)
    status, peak = process.wait_and_watch_memory()
    assert status == 0, process.log
    own = subprocess.run(
        [
            process.program,
            "-c",
            "import resource as r; print(r.getrusage(r.RUSAGE_SELF).ru_maxrss)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    used = peak - (int(own.stdout) << 10)
    assert used <= 128 << 20, f"{used >> 20} MiB"


def test_publishing_does_not_load_torch() -> None:
    program = (
        "import sys; from finetune_trainer.publishing import publish; "
        "import finetune_trainer.__main__; "
        "print(sorted({'torch', 'transformers', 'numpy'} & {*sys.modules}))"
    )
    done = publishing.python(program)
    assert done.stdout.strip() == "[]", done.stderr
