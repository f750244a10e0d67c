"""Publishing in versitygw, an S3 server that checks checksums, signatures and conditions."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from tests.support import model_servers
from tests.support.model_servers import ACCESS_KEY, SECRET_KEY
from tests.support.ports import free_port
from tests.support.trainer import publishing
from tests.support.trainer.publishing import Process, Published, Volume, run
from tests.support.trainer.statements import statements_about
from tests.support.trainer.web import Certificate

from finetune_cli import __main__ as ftj
from finetune_cli.verifying.failures import Code
from finetune_trainer.publishing.s3 import push

PART = 5 << 20
"""The smallest part that the server accepts."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """The server, and the folder of its bucket."""

    url: str
    folder: Path
    certificate: Certificate

    def target(self, volume: Volume, what: str = "merged") -> dict[str, Any]:
        place = {"uri": "s3://models/team", "endpoint": self.url}
        return volume.target(what, s3=place | {"ca": str(self.certificate.authority)})

    def model(self) -> Path:
        (found,) = (self.folder / "team").iterdir()
        return found


def environment(secret: str = SECRET_KEY) -> dict[str, str]:
    return {
        "PUBLISH_MAIN_AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "PUBLISH_MAIN_AWS_SECRET_ACCESS_KEY": secret,
    }


@pytest.fixture
def service(tmp_path: Path, certificate: Certificate) -> Iterator[Service]:
    address = f"127.0.0.1:{free_port()}"
    with model_servers.versitygw(tmp_path, address, certificate) as folder:
        url = f"https://{address}"
        boto3.client(
            "s3",
            endpoint_url=url,
            verify=str(certificate.authority),
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        ).create_bucket(Bucket="models")
        yield Service(url=url, folder=folder, certificate=certificate)


@pytest.fixture
def large(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return publishing.volume(tmp_path_factory.mktemp("large"), shard=4 * PART)


def signed(volume: Volume, service: Service) -> Published:
    target = service.target(volume)
    done = run(volume, target, environment=environment())
    assert done.error is None, done.failure
    attested = run(volume, target | statements_about(done), environment=environment())
    assert attested.error is None, attested.failure
    return done


def test_a_model_in_parts_is_published_once(
    large: Volume, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "PART", PART)
    monkeypatch.setattr(push, "part_size", lambda size: PART)
    done = signed(large, service)
    for path in large.layout.merged(publishing.BUILD).glob("*.safetensors"):
        assert (service.model() / path.name).read_bytes() == path.read_bytes()
    again = run(large, service.target(large), environment=environment())
    assert again.error is None, again.failure
    assert (again.only.reference, again.only.sent_bytes) == (done.only.reference, 0)


def test_a_killed_process_is_continued(large: Volume, service: Service) -> None:
    """The server keeps finished parts, which are not sent again."""
    first = Process(large, service.target(large), environment=environment(), part=PART)
    deadline = time.monotonic() + 60
    while _bytes(service.folder) < 2 * PART and time.monotonic() < deadline:
        time.sleep(0.005)
    first.kill()
    if first.wait() == 0:
        pytest.fail("the process ended before it was killed")
    assert not list(service.folder.rglob("manifest.json"))
    second = Process(large, service.target(large), environment=environment(), part=PART)
    assert second.wait() == 0, second.log
    artifacts = second.result.artifacts
    (target,) = artifacts.targets  # type: ignore[union-attr]
    assert target.sent_bytes is not None
    assert target.bytes is not None
    assert target.sent_bytes <= target.bytes - PART


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_damaged_bytes_on_the_disk_of_the_server_are_found(
    volume: Volume, service: Service
) -> None:
    signed(volume, service)
    path = service.model() / "model-00001-of-00002.safetensors"
    _flip(path)
    reason, message = run(volume, service.target(volume), environment=environment()).failure
    assert reason == "TargetRejected"
    assert "has other bytes than were sent" in message


def test_a_wrong_secret_is_denied(volume: Volume, service: Service) -> None:
    done = run(volume, service.target(volume), environment=environment("wrong"))
    assert done.failure[0] == "AccessDenied"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (None, 0),
        ("flip", Code.CHANGED),
        ("delete", Code.MISSING),
        ("add", Code.EXTRA),
        ("key", Code.NOT_SIGNED),
        ("base", Code.OTHER_BASE),
        ("secret", 1),
    ],
)
def test_a_published_folder_is_verified(
    volume: Volume,
    service: Service,
    keys: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: str | None,
    code: int,
) -> None:
    done = signed(volume, service)
    file = service.model() / "model-00002-of-00002.safetensors"
    match change:
        case "flip":
            _flip(file)
        case "delete":
            file.unlink()
        case "add":
            (service.model() / "extra.bin").write_bytes(b"extra")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong" if change == "secret" else SECRET_KEY)
    command = ["verify", str(done.only.reference), "--key", str(keys[change == "key"])]
    command += ["--endpoint", service.url, "--ca", str(service.certificate.authority)]
    command += ["--base", "org/other" if change == "base" else "org/base"]
    assert ftj.main(command) == code, capsys.readouterr().err


def _flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)
        file.seek(1000)
        file.write(bytes([byte[0] ^ 1]))
        os.fsync(file.fileno())
