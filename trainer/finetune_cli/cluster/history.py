"""The loss history of a revision: from its ledger, or from the pod that trains it."""

import http.client
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from finetune_api.contracts import labels, loss_history
from finetune_api.contracts.ports import TRAINER_METRICS
from finetune_api.safety.printable import printable
from finetune_api.v1alpha1.status.loss_history import LossSeries, Name
from finetune_cli.cluster import evidence, pods, port_forward
from finetune_cli.cluster.api import Cluster
from finetune_cli.cluster.job import Job
from finetune_cli.errors import CommandFailed

READ_SECONDS = 10.0
COLUMNS: tuple[str, ...] = get_args(Name)


@dataclass(frozen=True, kw_only=True)
class History:
    """The loss history of a revision of a job. ``live``: whether it still grows.

    ``paused``: whether the training has not ended, but no pod of it runs.
    """

    revision: str
    series: LossSeries
    live: bool
    paused: bool = False


def of(cluster: Cluster, job: Job, record: Mapping[str, Any]) -> History:
    """Return the history of a revision in the ledger; empty if there is none.

    Raises CommandFailed if the revision is trained at present, and the pod cannot be asked.
    """
    revision = str(record.get("revision"))
    pod = _training(cluster, job, record)
    if pod is not None:
        return History(revision=revision, series=_served(cluster, pod), live=True)
    recorded = (record.get("artifacts") or {}).get("lossHistory") or {}
    paused = _outcome(record) in ("Starting", "Running")
    return History(revision=revision, series=_checked(recorded), live=False, paused=paused)


def rows(histories: Sequence[History]) -> Iterator[tuple[object, ...]]:
    """Yield the rows of a CSV file: the names of its columns, then a row per revision and step."""
    yield "revision", "step", *COLUMNS
    for history in histories:
        steps: dict[int, dict[str, Any]] = {}
        for name, points in history.series.items():
            for step, value in points:
                steps.setdefault(step, {})[name] = value
        for step, values in sorted(steps.items()):
            yield printable(history.revision), step, *(values.get(name, "") for name in COLUMNS)


def _training(cluster: Cluster, job: Job, record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the pod that trains a revision at present, None without one."""
    if _outcome(record) != "Running":
        return None
    running = [
        pod
        for pod in evidence.pods_of(cluster, job)
        if pod.get("status", {}).get("phase") == "Running"
        and pods.label(pod, labels.REVISION) == record.get("revision")
    ]
    return pods.newest(running, "train")


def _outcome(record: Mapping[str, Any]) -> Any:
    """Return the outcome of the training of a revision, None if it has not begun."""
    stages = record.get("stages") or ()
    return next(
        (attempt.get("outcome") for attempt in stages if attempt.get("stage") == "train"), None
    )


def _served(cluster: Cluster, pod: Mapping[str, Any]) -> LossSeries:
    name = pod["metadata"]["name"]
    try:
        with port_forward.connection(
            cluster, pod, TRAINER_METRICS, seconds=READ_SECONDS
        ) as connection:
            connection.request("GET", loss_history.PATH)
            with connection.getresponse() as answer:
                content = answer.read(loss_history.SERVED_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        raise CommandFailed(
            f"pod {name} does not answer ({type(error).__name__}): run the command again in a "
            "moment; the history is also in the status of the job when the training has ended"
        ) from None
    series = None
    if answer.status == http.client.OK and len(content) <= loss_history.SERVED_BYTES:
        series = loss_history.parsed(content)
    if series is None:
        raise CommandFailed(
            f"pod {name} serves no loss history: its trainer image is of an older version; read "
            "its losses with ftj logs"
        )
    return series


def _checked(recorded: Any) -> LossSeries:
    """Return the series of a status, without what is none: anybody may have written it."""
    return loss_history.parsed(loss_history.text(recorded)) or {}
