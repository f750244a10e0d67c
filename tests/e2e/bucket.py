"""versitygw on the node: an S3 service that checks checksums, signatures and conditions.

The publish pod of a job reaches it by the address of the node, as it does a registry.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3  # type: ignore[import-untyped]
from tests.e2e.registry import PORT, node_certificate
from tests.support import model_servers
from tests.support.local_cluster.kubectl import Object
from tests.support.model_servers import ACCESS_KEY, SECRET_KEY
from tests.support.trainer.web import Certificate

from cluster.artifacts import gomodule
from cluster.settings import NODE_ADDRESS
from conformance import modules

URL, BUCKET, REGION = f"https://{NODE_ADDRESS}", "models", "us-east-1"
ACCESS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """A running service with a bucket. ``folder`` contains the objects of the bucket."""

    folder: Path
    certificate: Path

    def objects(self, namespace: str) -> list[Object]:
        """Return the Secret and the ConfigMap with which a job reaches the service."""
        metadata = {"name": "bucket", "namespace": namespace}
        authority = self.certificate.read_text(encoding="utf-8")
        return [
            {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": ACCESS},
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": metadata,
                "data": {"ca.crt": authority},
            },
        ]

    def target(self, prefix: str) -> Object:
        """Return ``s3`` of a target in spec.publish."""
        return {
            "uri": f"s3://{BUCKET}/{prefix}",
            "endpoint": URL,
            "region": REGION,
            "secretRef": {"name": "bucket"},
            "caConfigMapRef": {"name": "bucket", "key": "ca.crt"},
        }


@contextmanager
def running(folder: Path) -> Iterator[Bucket]:
    """Run the service during the block."""
    gomodule.build(modules.VERSITYGW, modules.folder(modules.VERSITYGW))
    authority, key = node_certificate(folder)
    certificate = Certificate(authority=authority, key=key)
    with model_servers.versitygw(folder, f"{NODE_ADDRESS}:{PORT}", certificate) as objects:
        boto3.client(
            "s3",
            endpoint_url=URL,
            verify=str(authority),
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        ).create_bucket(Bucket=BUCKET)
        yield Bucket(folder=objects, certificate=authority)
