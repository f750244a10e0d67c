"""The servers that all clients send to."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3  # type: ignore[import-untyped]
from tests.fakes import model_hub
from tests.fakes.model_hub import ModelHub
from tests.support import model_servers as real_servers
from tests.support.docker_registry import DockerRegistry
from tests.support.ports import free_port
from tests.support.trainer.publishing import PYTHONPATH
from tests.support.trainer.web import Bucket, Certificate

SMALL = 1 << 20
REGION = "us-east-1"


@dataclass(frozen=True, kw_only=True)
class Servers:
    """A registry, an object store and a hub, and how clients reach them."""

    folder: Path
    """Of all files."""
    registry: DockerRegistry
    bucket: Bucket
    hub: ModelHub
    certificate: Certificate

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every client."""
        authority = str(self.certificate.authority)
        keys = {f"PUBLISH_MAIN_{name}": value for name, value in self.bucket.allowed.items()}
        keys["PUBLISH_MAIN_HF_TOKEN"] = model_hub.TOKEN
        trust = {"SSL_CERT_FILE": authority, "AWS_CA_BUNDLE": authority}
        return {**os.environ, **keys, **self.bucket.allowed, **trust, "PYTHONPATH": PYTHONPATH}


@contextmanager
def versitygw(folder: Path, certificate: Certificate) -> Iterator[Bucket]:
    """Run versitygw in the block, and yield its bucket."""
    address = f"127.0.0.1:{free_port()}"
    with real_servers.versitygw(folder, address, certificate):
        url = f"https://{address}"
        keys = {
            "AWS_ACCESS_KEY_ID": real_servers.ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": real_servers.SECRET_KEY,
        }
        client = boto3.client(
            "s3",
            endpoint_url=url,
            verify=str(certificate.authority),
            region_name=REGION,
            **{name.lower(): value for name, value in keys.items()},
        )
        client.create_bucket(Bucket="models")
        yield Bucket(url=url, name="models", allowed=keys, forbidden={}, client=client)


def free(servers: Servers) -> None:
    """Free the space of what the last client has sent: of the zeros in files, and of objects."""
    for path in servers.folder.rglob("*"):
        if path.is_file() and path.stat().st_blocks * 512 > SMALL:
            subprocess.run(["fallocate", "--dig-holes", str(path)], check=True)
    client, bucket = servers.bucket.client, servers.bucket.name
    for listed in client.list_objects_v2(Bucket=bucket).get("Contents", ()):
        client.delete_object(Bucket=bucket, Key=listed["Key"])
