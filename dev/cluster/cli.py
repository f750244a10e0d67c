"""Manage the local cluster, and run the demo."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from cluster import install, lifecycle, packages, paths, phases, shell
from cluster.artifacts import binaries, images
from cluster.components import hub
from cluster.demo import quickstart
from cluster.errors import ClusterError
from cluster.phases import say


def main() -> int:
    """Run one command; return the exit status."""
    arguments = _parser().parse_args()
    return guarded(arguments.command, lambda: _run(arguments))


def guarded(command: str, work: Callable[[], int | None]) -> int:
    """Run the work of a command; report an error with its phase, log and fix."""
    shell.prepare()
    try:
        return work() or 0
    except ClusterError as error:
        error.phase = error.phase or command
        report(error)
        return 1
    except BrokenPipeError:
        # The reader closed the pipe (`make status | head`): suppress all further output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        report(phases.from_os_error(error, command))
        return 1
    except KeyboardInterrupt:
        say("interrupted; to resume, run the same command again")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dev/cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start or repair the cluster")
    commands.add_parser("down", help="stop and remove the cluster")
    commands.add_parser("status", help="list the processes of the cluster")
    commands.add_parser("kubeconfig", help="print the path of the kubeconfig")
    commands.add_parser("assets", help="build the control plane programs and print their folder")
    commands.add_parser("hub", help="create the content of the local hub, and start the hub")
    commands.add_parser("install", help="build and install the operator, and start the hub")
    build = commands.add_parser("images", help="build the images whose inputs changed")
    build.add_argument("names", nargs="*", help=f"{', '.join(images.ALL)} (default: all)")
    run = commands.add_parser("run", help="run the demo")
    run.add_argument("--current", action="store_true", help="use the current kubeconfig context")
    for name in ("operator", "trainer", "serving"):
        text = f"image of the {name} (only with --current)"
        run.add_argument(f"--image-{name}", default="", help=text)
    run.add_argument(
        "--hub-endpoint", default="", help="hub with the demo repositories (only with --current)"
    )
    run.add_argument("--values", default="", help="Helm values file (only with --current)")
    return parser


def report(error: ClusterError) -> None:
    """Print an error with its phase, log and fix."""
    lines = [f"FAILED: {error.phase}" if error.phase else "FAILED", f"  {error}"]
    if error.log:
        lines.append(f"  log: {error.log}")
    if error.hint:
        lines.append(f"  fix: {error.hint}")
    print("\n".join(lines), file=sys.stderr, flush=True)


def _run(arguments: argparse.Namespace) -> int:
    command = arguments.command
    if command == "up":
        lifecycle.up()
    elif command == "down":
        lifecycle.down()
    elif command == "status":
        return lifecycle.status()
    elif command == "kubeconfig":
        print(paths.KUBECONFIG)
    elif command == "assets":
        phases.quiet = True
        print(binaries.ensure(*binaries.ASSETS, binaries.KUEUE))
    elif command == "hub":
        hub.ensure_content()
        hub.start()
    elif command == "install":
        install_here()
    elif command == "images":
        packages.ensure()
        names = arguments.names or list(images.ALL)
        unknown = sorted(set(names) - set(images.ALL))
        if unknown:
            raise ClusterError(
                f"unknown image {', '.join(unknown)}",
                hint=f"use one of {', '.join(images.ALL)}",
            )
        for reference in images.ensure(*(images.ALL[name] for name in names)).values():
            print(reference)
    elif command == "run":
        quickstart.run(_current_cluster(arguments) if arguments.current else None)
    return 0


def install_here() -> None:
    """Build and install the operator of this repository, and the hub, on the local cluster."""
    binaries.ensure(binaries.HELM)
    hub.ensure_content()
    install.install_with_hub(install.local_images())


def _current_cluster(arguments: argparse.Namespace) -> quickstart.CurrentCluster:
    given = {
        name: getattr(arguments, f"image_{name}") for name in ("operator", "trainer", "serving")
    }
    missing = [f"IMAGE_{name.upper()}" for name, value in given.items() if not value]
    if missing:
        raise ClusterError(
            f"make run CLUSTER=current requires {', '.join(missing)}",
            hint="build the images with docker, podman or buildah, push them to a registry that "
            "your nodes can pull from, and set these variables to their references",
        )
    values = Path(arguments.values) if arguments.values else None
    if values is not None and not values.is_file():
        raise ClusterError(
            f"make run CLUSTER=current: VALUES={values} does not exist",
            hint="set VALUES to an existing Helm values file",
        )
    return quickstart.CurrentCluster(
        images=install.Images(**given), hub_endpoint=arguments.hub_endpoint, values=values
    )
