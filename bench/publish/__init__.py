"""Publishing compared with other clients on the same servers: processor time and memory.

The model is one file of zeros that occupies no disk space: neither digests nor TLS depend on the
content. Each client runs in a process of its own, with a small model and with the large one; the
difference of the two processor times is divided by the difference of the sizes, so that the start
of a process does not count. Each upload goes to another repository or folder. The servers run in
other processes than the clients. After each client, the zeros that they have stored become holes,
so that a large model fits on a small disk.
"""

import argparse
import json
import mmap
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import boto3  # type: ignore[import-untyped]
from tests.conformance.consumers import servers as real_servers
from tests.fakes import model_hub
from tests.fakes.model_hub import ModelHub
from tests.support import docker_registry
from tests.support.docker_registry import DockerRegistry
from tests.support.ports import free_port
from tests.support.trainer import publishing, web
from tests.support.trainer.publishing import PYTHONPATH, ZEROS, Volume
from tests.support.trainer.web import Bucket, Certificate

from bench.table import table, verdict

SMALL = 1 << 20
PART = 16 << 20
"""Bytes of a part that the hub asks for."""
SPACE = 2.2
"""Free space in sizes of the model: what a client sends, while the server assembles it."""
REGION = "us-east-1"
SAMPLE_SECONDS = 0.01
TIMES = 1.5
MEMORY = 128 << 20
HEAD = ("client", "CPU seconds per GB", "ratio of publish to it", "peak memory")
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


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Processor time of a process in seconds, and its peak memory in bytes."""

    processor: float
    memory: int


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


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    command.add_argument("--megabytes", type=int, default=1000, help="size of the model")
    command.add_argument("--crane", default=shutil.which("crane"), help="program of crane")
    command.add_argument(
        "--versitygw",
        action="store_true",
        help="send to versitygw, as `make conformance` has built it, instead of moto, which holds "
        "the model in memory",
    )


def measure(options: argparse.Namespace) -> str:
    """Run the benchmark and return its tables."""
    size = options.megabytes * 10**6
    with tempfile.TemporaryDirectory(prefix="bench-publish-") as name, ExitStack() as stack:
        folder = Path(name)
        if (free := shutil.disk_usage(folder).free) < SPACE * size:
            raise SystemExit(
                f"the disk of {folder} has {free / 1e9:.0f} GB of free space, and a model of "
                f"{size / 1e9:g} GB needs {SPACE * size / 1e9:.0f} GB: free space, set TMPDIR to a "
                "folder on another disk, or use a smaller value of --megabytes"
            )
        certificate = web.certificate(folder)
        host = f"127.0.0.1:{free_port()}"
        registry = stack.enter_context(
            docker_registry.running(
                folder, host, certificate=certificate.authority, key=certificate.key
            )
        )
        bucket = stack.enter_context(
            _versitygw(folder, certificate) if options.versitygw else web.s3(certificate)
        )
        hub = stack.enter_context(model_hub.serving(certificate.context()))
        servers = Servers(
            folder=folder, registry=registry, bucket=bucket, hub=hub, certificate=certificate
        )
        volumes = {
            volume_size: _volume(folder / f"volume-{volume_size}", volume_size)
            for volume_size in (SMALL, size)
        }
        to_registry: dict[str, Callable[[int], Cost]] = {
            "publish": lambda volume_size: _publish(volumes[volume_size], servers, "oci")
        }
        to_bucket: dict[str, Callable[[int], Cost]] = {
            "publish": lambda volume_size: _publish(volumes[volume_size], servers, "s3"),
            "boto3, and reading back": lambda volume_size: _boto(volumes[volume_size], servers),
        }
        to_hub: dict[str, Callable[[int], Cost]] = {
            "publish": lambda volume_size: _publish_to_hub(volumes[volume_size], servers)
        }
        if options.crane is not None:
            crane = _Crane(program=options.crane, servers=servers, folder=folder)
            to_registry["crane push"] = crane.push
            to_registry["crane push, and crane blob"] = crane.push_and_read_back
        parts = [f"One file of {size / 1e9:g} GB."]
        store = "versitygw" if options.versitygw else "moto"
        for target, clients in (
            ("docker-registry", to_registry),
            (f"S3 ({store})", to_bucket),
            ("hub (of the tests)", to_hub),
        ):
            print(f"==> {target}", flush=True)
            parts += ["", f"{target}:", "", _markdown(_costs(clients, size, servers))]
        return "\n".join(parts)


@contextmanager
def _versitygw(folder: Path, certificate: Certificate) -> Iterator[Bucket]:
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


def _costs(
    clients: Mapping[str, Callable[[int], Cost]], size: int, servers: Servers
) -> dict[str, Cost]:
    """Return the cost of each client per 10^9 bytes."""
    costs = {}
    for name, client in clients.items():
        small, large = client(SMALL), client(size)
        _free(servers)
        seconds = (large.processor - small.processor) / (size - SMALL) * 1e9
        costs[name] = Cost(processor=seconds, memory=large.memory)
        print(f"    {name}: {seconds:.2f} CPU seconds per GB, {_mib(large)}", flush=True)
    return costs


def _free(servers: Servers) -> None:
    """Free the space of what the last client has sent: of the zeros in files, and of objects."""
    for path in servers.folder.rglob("*"):
        if path.is_file() and path.stat().st_blocks * 512 > SMALL:
            subprocess.run(["fallocate", "--dig-holes", str(path)], check=True)
    client, bucket = servers.bucket.client, servers.bucket.name
    for listed in client.list_objects_v2(Bucket=bucket).get("Contents", ()):
        client.delete_object(Bucket=bucket, Key=listed["Key"])


def _volume(folder: Path, size: int) -> Volume:
    folder.mkdir()
    return publishing.volume(folder, zeros=size)


def _publish(volume: Volume, servers: Servers, kind: str) -> Cost:
    """Run the publish stage."""
    if kind == "oci":
        size = (volume.layout.merged(publishing.BUILD) / ZEROS).stat().st_size
        place = {"repository": f"{servers.registry.host}/ours/{size}"}
    else:
        uri = f"s3://{servers.bucket.name}/ours"
        place = {"uri": uri, "endpoint": servers.bucket.url, "region": REGION}
    return _run_publish(volume, servers, kind, place)


def _publish_to_hub(volume: Volume, servers: Servers) -> Cost:
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
    return _run(command, servers.environment | {"FINETUNE_METRICS_PORT": "off"})


def _boto(volume: Volume, servers: Servers) -> Cost:
    path = volume.layout.merged(publishing.BUILD) / ZEROS
    bucket = servers.bucket
    key = f"boto3/{path.stat().st_size}"
    command = [sys.executable, "-c", BOTO, bucket.url, bucket.name, key, str(path)]
    return _run(command, servers.environment)


@dataclass(frozen=True, kw_only=True)
class _Crane:
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
        return _run([self.program, *arguments], self.servers.environment)


def _run(command: list[str], environment: Mapping[str, str]) -> Cost:
    """Run a client to its end."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=log)
        memory, ended = 0, 0
        while not ended:
            memory = max(memory, _peak(process.pid))
            time.sleep(SAMPLE_SECONDS)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"{command[0]} ended with {process.returncode}: {log.read()}")
    return Cost(processor=usage.ru_utime + usage.ru_stime, memory=memory)


def _peak(process: int) -> int:
    """Return the peak memory of a process, without that of the process that started it."""
    match = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(), re.M)
    return int(match[1]) << 10 if match else 0


def _markdown(costs: Mapping[str, Cost]) -> str:
    ours = costs["publish"]
    rows = []
    for name, cost in costs.items():
        ratio, memory = "", _mib(cost)
        if cost is ours:
            memory += f" (goal {MEMORY >> 20} MiB, {verdict(cost.memory <= MEMORY)})"
        else:
            times = ours.processor / cost.processor
            ratio = f"{times:.2f} (goal {TIMES}, {verdict(times <= TIMES)})"
        rows.append((name, f"{cost.processor:.2f}", ratio, memory))
    return table(HEAD, rows)


def _mib(cost: Cost) -> str:
    return f"{cost.memory / 2**20:.0f} MiB"
