"""The lifecycle of the cluster: up, down, status.

``up`` starts only the processes that are not running, so it reuses a healthy cluster and repairs
one that lost a process. It removes and recreates a cluster that it cannot repair.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from cluster import cleanup, packages, paths
from cluster.artifacts import base_image, binaries
from cluster.components import addons, containers, control_plane, node, pki
from cluster.errors import ClusterError, NotReady
from cluster.host import network, processes
from cluster.phases import phase, say
from cluster.settings import API_SERVER
from cluster.shell import behind_proxy


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Hold the lock that allows only one command at a time to change the cluster."""
    paths.CACHE.mkdir(parents=True, exist_ok=True)
    with paths.LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("    waiting until another command has finished changing the cluster")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def up() -> None:
    """Start, repair or recreate the cluster."""
    packages.ensure()
    binaries.ensure(*binaries.CLUSTER)
    with locked():
        cleanup.end_unrecorded()
        helper = base_image.ensure()
        try:
            _repair(helper)
        except ClusterError as error:
            say(f"    {error}")
            with phase("recreate the cluster, because it cannot be repaired"):
                # Keep the registry: it is not affected, and a build may be using it.
                cleanup.remove_all(keep=("registry",))
            _start(helper)


def _repair(helper: str) -> None:
    """Start what is not running, and once more if a process ends meanwhile.

    A killed process takes a moment to end and to release its ports, longer on a busy machine.
    """
    try:
        _start(helper)
    except ClusterError as error:
        if all(processes.alive(name) for name in processes.recorded()):
            raise
        say(f"    {error}")
        _start(helper)


def _start(helper: str) -> None:
    pause = base_image.ensure_single_program("pause", binaries.folder() / "pause")
    coredns = base_image.ensure_single_program("coredns", binaries.folder() / "coredns")
    with phase("start the control plane"):
        paths.STATE.mkdir(parents=True, exist_ok=True)
        cleanup.remember_folders()
        network.up()
        fresh = not paths.PKI.exists()
        pki.ensure()
        control_plane.start()
        addons.apply_roles()
    with phase("start the node"):
        containers.start(pause)
        if fresh and containers.remove_all():
            # Containers of a cluster whose removal was interrupted.
            processes.stop("containerd")
            containers.start(pause)
        node.start()
    with phase("start DNS and volumes"):
        addons.start(helper, coredns)
        control_plane.wait()
        addons.wait()
    for name in cleanup.ORDER:
        if processes.alive(name) is None:
            log = processes.log_file(name)
            raise NotReady(f"{name} exited", log=log, hint=processes.RECREATE)


def down() -> None:
    """Stop and remove the cluster."""
    with locked(), phase("stop and remove the cluster"):
        cleanup.remove_all()


def exports() -> list[str]:
    """Return shell lines that give access to the cluster."""
    lines = [
        f"export KUBECONFIG='{paths.KUBECONFIG}'",
        f"export PATH='{binaries.folder()}':\"$PATH\"",
    ]
    if behind_proxy():
        value = os.environ.get("NO_PROXY") or os.environ.get("no_proxy", "")
        lines.append(f"export NO_PROXY='{value}' no_proxy='{value}'")
    return lines


def status() -> int:
    """Print the state of each process; return 0 if the API server is ready, else 1."""
    for name in cleanup.ORDER:
        record = processes.alive(name)
        say(f"{name:26} {'pid ' + str(record.pid) if record else 'stopped'}")
    ready = control_plane.answers(f"{API_SERVER}/readyz")
    say(f"{'API server':26} {'ready' if ready else 'not ready'}")
    if ready:
        say("\n" + "\n".join(exports()))
    return 0 if ready else 1
