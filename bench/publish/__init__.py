"""Publishing compared with other clients on the same servers: processor time and memory.

The model is one file of zeros that occupies no disk space: neither digests nor TLS depend on the
content. Each client runs in a process of its own, with a small model and with the large one; the
difference of the two processor times is divided by the difference of the sizes, so that the start
of a process does not count. Each upload goes to another repository or folder. The servers run in
other processes than the clients. After each client, the zeros that they have stored become holes,
so that a large model fits on a small disk.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from tests.fakes import model_hub
from tests.support import docker_registry
from tests.support.ports import free_port
from tests.support.trainer import web

from bench.publish import others, ours
from bench.publish.process import Cost
from bench.publish.servers import SMALL, Servers, free, versitygw
from bench.table import table, verdict

SPACE = 2.2
"""Free space in sizes of the model: what a client sends, while the server assembles it."""
TIMES = 1.5
MEMORY = 128 << 20
HEAD = ("client", "CPU seconds per GB", "ratio of publish to it", "peak memory")


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
            versitygw(folder, certificate) if options.versitygw else web.s3(certificate)
        )
        hub = stack.enter_context(model_hub.serving(certificate.context()))
        servers = Servers(
            folder=folder, registry=registry, bucket=bucket, hub=hub, certificate=certificate
        )
        volumes = {
            volume_size: ours.volume(folder / f"volume-{volume_size}", volume_size)
            for volume_size in (SMALL, size)
        }
        to_registry: dict[str, Callable[[int], Cost]] = {
            "publish": lambda volume_size: ours.publish(volumes[volume_size], servers, "oci")
        }
        to_bucket: dict[str, Callable[[int], Cost]] = {
            "publish": lambda volume_size: ours.publish(volumes[volume_size], servers, "s3"),
            "boto3, and reading back": lambda volume_size: others.boto(
                volumes[volume_size], servers
            ),
        }
        to_hub: dict[str, Callable[[int], Cost]] = {
            "publish": lambda volume_size: ours.publish_to_hub(volumes[volume_size], servers)
        }
        if options.crane is not None:
            crane = others.Crane(program=options.crane, servers=servers, folder=folder)
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


def _costs(
    clients: Mapping[str, Callable[[int], Cost]], size: int, servers: Servers
) -> dict[str, Cost]:
    """Return the cost of each client per 10^9 bytes."""
    costs = {}
    for name, client in clients.items():
        small, large = client(SMALL), client(size)
        free(servers)
        seconds = (large.processor - small.processor) / (size - SMALL) * 1e9
        costs[name] = Cost(processor=seconds, memory=large.memory)
        print(f"    {name}: {seconds:.2f} CPU seconds per GB, {_mib(large)}", flush=True)
    return costs


def _markdown(costs: Mapping[str, Cost]) -> str:
    own = costs["publish"]
    rows = []
    for name, cost in costs.items():
        ratio, memory = "", _mib(cost)
        if cost is own:
            memory += f" (goal {MEMORY >> 20} MiB, {verdict(cost.memory <= MEMORY)})"
        else:
            times = own.processor / cost.processor
            ratio = f"{times:.2f} (goal {TIMES}, {verdict(times <= TIMES)})"
        rows.append((name, f"{cost.processor:.2f}", ratio, memory))
    return table(HEAD, rows)


def _mib(cost: Cost) -> str:
    return f"{cost.memory / 2**20:.0f} MiB"
