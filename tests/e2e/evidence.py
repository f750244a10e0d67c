"""Evidence of a failed test: objects, events, logs, and a timeline."""

from collections.abc import Iterable
from pathlib import Path

from tests.support.local_cluster.kubectl import KubectlError
from tests.support.local_cluster.recorder import Event
from tests.support.local_cluster.target import OPERATOR, OPERATOR_NAMESPACE, Cluster, pretty

KINDS = "ftj,jobs,pods,pvc,deployments,replicasets,services,configmaps,networkpolicies"


def collect(cluster: Cluster, folder: Path, namespaces: Iterable[str]) -> None:
    """Write the objects and logs of some namespaces, and the log of the operator, to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    operator = (f"deployment/{OPERATOR}", f"--namespace={OPERATOR_NAMESPACE}")
    _write(cluster, folder / "operator.log", "logs", *operator, "--tail=2000")
    _write(cluster, folder / "operator-before.log", "logs", *operator, "--tail=2000", "--previous")
    _write(cluster, folder / "volumes.yaml", "get", "pv", "-o", "yaml")
    for namespace in namespaces:
        below = folder / namespace
        below.mkdir(exist_ok=True)
        inside = f"--namespace={namespace}"
        _write(cluster, below / "objects.yaml", "get", KINDS, inside, "-o", "yaml")
        _write(cluster, below / "pods.txt", "describe", "pods", inside)
        events = ("--sort-by=.metadata.creationTimestamp", "-o", "wide")
        _write(cluster, below / "events.txt", "get", "events", inside, *events)
        for pod in cluster.record.present("Pod", namespace):
            name = pod["metadata"]["name"]
            for container in pod["spec"]["containers"]:
                log = below / f"{name}.{container['name']}.log"
                _write(cluster, log, "logs", name, inside, f"--container={container['name']}")
        (below / "course.txt").write_text(_timeline(cluster, namespace), encoding="utf-8")


def _write(cluster: Cluster, file: Path, *arguments: str) -> None:
    try:
        done = cluster.kubectl.attempt(*arguments)
        text = done.stdout if done.returncode == 0 else done.stderr
    except KubectlError as error:
        text = str(error)
    file.write_text(text, encoding="utf-8")


def _timeline(cluster: Cluster, namespace: str) -> str:
    """Return a timeline of all changes of the FineTuneJobs, Jobs and pods of a namespace."""
    events: list[Event] = []
    lines = []
    for kind in ("FineTuneJob", "Job", "Pod", "PersistentVolumeClaim", "Deployment"):
        try:
            events += cluster.record.events(kind, namespace)
        except RuntimeError as error:
            lines.append(str(error))
    events.sort(key=lambda event: event.at)
    for event in events:
        name = event.object["metadata"]["name"]
        lines.append(f"{event.at:.3f} {event.change} {event.kind}/{name}")
        lines.append(pretty(event.object.get("status", {})))
    return "\n".join(lines) + "\n"
