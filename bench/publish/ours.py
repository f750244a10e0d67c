"""The publish stage, with each kind of target."""

import mmap
import sys
from pathlib import Path
from typing import cast

from tests.fakes import model_hub
from tests.support.trainer import publishing
from tests.support.trainer.publishing import ZEROS, Volume

from bench.publish.process import Cost, run
from bench.publish.servers import REGION, Servers

PART = 16 << 20
"""Bytes of a part that the hub asks for."""


def volume(folder: Path, size: int) -> Volume:
    """Make a volume with a merged model of about ``size`` bytes."""
    folder.mkdir()
    return publishing.volume(folder, zeros=size)


def publish(volume: Volume, servers: Servers, kind: str) -> Cost:
    """Run the publish stage."""
    if kind == "oci":
        size = (volume.layout.merged(publishing.BUILD) / ZEROS).stat().st_size
        place = {"repository": f"{servers.registry.host}/ours/{size}"}
    else:
        uri = f"s3://{servers.bucket.name}/ours"
        place = {"uri": uri, "endpoint": servers.bucket.url, "region": REGION}
    return _run_publish(volume, servers, kind, place)


def publish_to_hub(volume: Volume, servers: Servers) -> Cost:
    """Run the publish stage. The hub compares what it gets with the file, and does not keep it."""
    hub, path = servers.hub, volume.layout.merged(publishing.BUILD) / ZEROS
    place = {"repo": f"{model_hub.OWNER}/size-{path.stat().st_size}", "endpoint": hub.url}
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as expected,
    ):
        hub.chunk, hub.expected = PART, cast("bytes", expected)
        cost = _run_publish(volume, servers, "hugging_face", place)
        hub.reset()
    return cost


def _run_publish(volume: Volume, servers: Servers, kind: str, place: dict[str, str]) -> Cost:
    place["ca"] = str(servers.certificate.authority)
    request = volume.request(volume.target("merged", **{kind: place}))
    command = [sys.executable, "-m", "finetune_trainer", request.to_argument()]
    return run(command, servers.environment | {"FINETUNE_METRICS_PORT": "off"})
