"""The clients that the publish stage is compared with."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.trainer import publishing
from tests.support.trainer.publishing import ZEROS, Volume

from bench.publish.process import Cost, run
from bench.publish.servers import Servers

BOTO = """
import hashlib, sys, boto3
url, bucket, key, path = sys.argv[1:]
client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
client.upload_file(path, bucket, key)
digest = hashlib.sha256()
for chunk in client.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(1 << 20):
    digest.update(chunk)
"""
"""Uploads a file with the defaults of boto3, and reads it back."""


def boto(volume: Volume, servers: Servers) -> Cost:
    """Upload the file with boto3, and read it back."""
    path = volume.layout.merged(publishing.BUILD) / ZEROS
    bucket = servers.bucket
    key = f"boto3/{path.stat().st_size}"
    command = [sys.executable, "-c", BOTO, bucket.url, bucket.name, key, str(path)]
    return run(command, servers.environment)


@dataclass(frozen=True, kw_only=True)
class Crane:
    """crane, with the images that ``publish`` has pushed, in folders with the layout of OCI."""

    program: str
    servers: Servers
    folder: Path

    def push(self, size: int) -> Cost:
        """Push the image of a model, whose digests the layout has."""
        return self._push(size, f"{self.servers.registry.host}/crane/{size}:push")

    def push_and_read_back(self, size: int) -> Cost:
        """Push the image of a model, and read all of its blobs, whose digests crane compares."""
        repository = f"{self.servers.registry.host}/crane-read/{size}"
        costs = [self._push(size, f"{repository}:push")]
        manifest = json.loads(self._blob(size, self._index(size)).read_bytes())
        for blob in (manifest["config"], *manifest["layers"]):
            costs.append(self._run("blob", f"{repository}@{blob['digest']}"))
        return Cost(
            processor=sum(cost.processor for cost in costs),
            memory=max(cost.memory for cost in costs),
        )

    def _layout(self, size: int) -> Path:
        return self.folder / f"layout-{size}"

    def _index(self, size: int) -> str:
        index = json.loads((self._layout(size) / "index.json").read_bytes())
        return str(index["manifests"][0]["digest"])

    def _blob(self, size: int, digest: str) -> Path:
        return self._layout(size) / "blobs" / digest.replace(":", "/")

    def _push(self, size: int, reference: str) -> Cost:
        layout = self._layout(size)
        if not layout.is_dir():
            image = f"{self.servers.registry.host}/ours/{size}:tiny-1-merged"
            self._run("pull", "--format=oci", image, str(layout))
        return self._run("push", str(layout), reference)

    def _run(self, *arguments: str) -> Cost:
        return run([self.program, *arguments], self.servers.environment)
