"""The command line: ``python3 dev/cluster <command>``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from cluster import (
    binaries,
    demo,
    hub,
    images,
    install,
    lifecycle,
    packages,
    paths,
    phases,
    shell,
)
from cluster.errors import ClusterError
from cluster.phases import say


def main() -> int:
    """Run one command."""
    arguments = _parser().parse_args()
    return guarded(arguments.command, lambda: _run(arguments))


def guarded(command: str, work: Callable[[], int | None]) -> int:
    """Do the work of a command; an error names what failed, the log and the way out."""
    shell.prepare()
    try:
        return work() or 0
    except ClusterError as error:
        error.phase = error.phase or command
        report(error)
        return 1
    except BrokenPipeError:
        # Whoever reads has seen enough (`make status | head`); nothing may be printed any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        report(phases.of_the_system(error, command))
        return 1
    except KeyboardInterrupt:
        say("interrupted; the same command goes on where it stopped")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dev/cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start the cluster, or make it whole")
    commands.add_parser("down", help="stop and remove it")
    commands.add_parser("status", help="what runs")
    commands.add_parser("kubeconfig", help="print the kubeconfig's path")
    commands.add_parser("assets", help="build the control plane's programs, print their folder")
    commands.add_parser("hub", help="make the local hub's content and start it")
    commands.add_parser("install", help="install the operator of this repository, and the hub")
    build = commands.add_parser("images", help="build the images whose inputs changed")
    build.add_argument("names", nargs="*", help=f"of {', '.join(images.ALL)} (default: all)")
    run = commands.add_parser("run", help="the whole demo")
    run.add_argument("--current", action="store_true", help="use the current kubeconfig context")
    for name in ("operator", "trainer", "serving"):
        run.add_argument(f"--image-{name}", default="", help="with --current: the image")
    run.add_argument("--hub-endpoint", default="", help="with --current: a hub with demo/…")
    run.add_argument("--values", default="", help="with --current: a file with more chart values")
    return parser


def report(error: ClusterError) -> None:
    """The failure as a person needs it."""
    lines = [f"FAILED: {error.phase}" if error.phase else "FAILED", f"  {error}"]
    if error.log:
        lines.append(f"  log: {error.log}")
    if error.hint:
        lines.append(f"  way out: {error.hint}")
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
        chosen = arguments.names or list(images.ALL)
        unknown = sorted(set(chosen) - set(images.ALL))
        if unknown:
            raise ClusterError(f"no such image: {', '.join(unknown)}; there are {list(images.ALL)}")
        for reference in images.ensure(*(images.ALL[name] for name in chosen)).values():
            print(reference)
    elif command == "run":
        demo.run(_elsewhere(arguments) if arguments.current else None)
    return 0


def install_here() -> None:
    """The hub and the operator of this repository on the local cluster."""
    binaries.ensure(binaries.HELM)
    hub.ensure_content()
    install.beside_the_hub(install.local_images())


def _elsewhere(arguments: argparse.Namespace) -> demo.Elsewhere:
    given = {
        name: getattr(arguments, f"image_{name}") for name in ("operator", "trainer", "serving")
    }
    missing = [f"IMAGE_{name.upper()}" for name, value in given.items() if not value]
    if missing:
        raise ClusterError(
            f"make run CLUSTER=current needs {', '.join(missing)}",
            hint="build with docker, podman or buildah, push to a registry that the nodes can "
            "pull from, and name the images",
        )
    values = Path(arguments.values) if arguments.values else None
    if values is not None and not values.is_file():
        raise ClusterError(
            f"make run CLUSTER=current: there is no file {values}",
            hint="VALUES names a YAML file with values of the chart, such as defaults",
        )
    return demo.Elsewhere(
        images=install.Images(**given), hub_endpoint=arguments.hub_endpoint, values=values
    )
