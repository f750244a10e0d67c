"""What a revision of the ledger was trained with, what came of it, and what it cost."""

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from finetune_api.contracts import cost
from finetune_api.revision_hash import text_digest
from finetune_cli.cluster import api
from finetune_cli.cluster.api import Cluster, NotFound
from finetune_cli.cluster.job import Job, seconds_since, time_of
from finetune_cli.errors import CommandFailed

JOB_FILE = "job.json"
NAMES = ("namespace", "name", "revision", "digest")
"""Fields of job.json that name the revision."""
Record = Mapping[str, Any]


def document(cluster: Cluster, job: Job, revision: str) -> str:
    """Return the job.json of a revision. Raises CommandFailed."""
    name = f"{job.name}-{revision}"
    try:
        configmap = cluster.get(api.path("configmaps", job.namespace, name))
    except NotFound:
        raise CommandFailed(
            f"ConfigMap {name} of revision {revision} does not exist in namespace "
            f"{job.namespace}: read the spec of the revision in Git or in a backup"
        ) from None
    return str((configmap.get("data") or {}).get(JOB_FILE, ""))


def recipe(text: str, record: Record) -> dict[str, Any]:
    """Return the fields of a job.json. Raises CommandFailed if it is not that of the revision."""
    frozen = record.get("frozen") or {}
    try:
        if text_digest(text) == frozen.get("jobDigest"):
            return {name: value for name, value in json.loads(text).items() if name not in NAMES}
    except (ValueError, AttributeError):
        pass
    raise CommandFailed(
        f"the ConfigMap of revision {record.get('revision')} is not the one that the operator "
        "wrote: read the spec of the revision in Git or in a backup"
    )


def configuration(record: Record) -> dict[str, Any]:
    """Return the configuration of the operator at the start of a revision, empty if unknown."""
    try:
        settings = json.loads((record.get("frozen") or {}).get("operator") or "{}")
    except (ValueError, TypeError):
        return {}
    return settings if isinstance(settings, dict) else {}


def flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values in a document by their paths, without those that are not set."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from flat(inner, f"{place}.{name}" if place else str(name))
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from flat(inner, f"{place}[{at}]")
    elif value is not None:
        yield place, value


def differences(first: Record, second: Record) -> dict[str, tuple[Any, Any]]:
    """Return the values in two documents that differ, by path; None for one that is not set."""
    before, after = dict(flat(first)), dict(flat(second))
    return {
        path: (before.get(path), after.get(path))
        for path in dict.fromkeys([*before, *after])
        if before.get(path) != after.get(path)
    }


def stage(record: Record, name: str, build: str | None = None) -> Record:
    """Return the latest attempt at a stage of a revision, empty if there is none."""
    for attempt in record.get("stages") or ():
        if attempt.get("stage") == name and build in (None, attempt.get("build")):
            latest: Record = attempt
            return latest
    return {}


def results(job: Job, record: Record) -> dict[str, str]:
    """Return what came of a revision, by name; unknown values are absent."""
    artifacts = record.get("artifacts") or {}
    train, backend = stage(record, "train"), record.get("backend") or {}
    losses = (artifacts.get("lossHistory") or {}).get("loss") or []
    seconds = seconds_since(time_of(train.get("started")), time_of(train.get("ended")))
    amount = spent(job, record)
    facts = {
        "training": train.get("outcome"),
        "last training loss": losses[-1][1] if losses else None,
        **_evaluated(record, artifacts.get("evaluation") or {}),
        "verification": _verified(job, record),
        "minutes of training": round(seconds / 60) if train.get("ended") and seconds else None,
        "GPU-hours": cost.hours(amount.seconds) if amount.seconds else None,
        "cost": amount.text,
        "device": artifacts.get("device"),
        "backend": " ".join(filter(None, (backend.get("name"), backend.get("version")))) or None,
        "attention": artifacts.get("attention"),
    }
    return {name: str(value) for name, value in facts.items() if value is not None}


def _evaluated(record: Record, losses: Mapping[str, Any]) -> dict[str, Any]:
    base = stage(record, "serve").get("base") or "dequantized"
    build = losses.get(base) or {}
    error = build.get("standardError")
    difference = build.get("difference")
    return {
        "held-out loss": build.get("loss"),
        "held-out loss of the base model": losses.get("baseLoss"),
        "difference from the base model": f"{difference} ± {error}" if error else difference,
        "held-out rows": losses.get("rows"),
        "digest of the held-out rows": losses.get("rowsDigest"),
    }


def _verified(job: Job, record: Record) -> str | None:
    verification = job.status.get("verification") or {}
    for attempt in record.get("stages") or ():
        if attempt.get("stage") != "serve":
            continue
        if attempt.get("build") == verification.get("build") and verification.get("outcome"):
            return str(verification["outcome"])
        if attempt.get("outcome") == "Completed":
            return "answered requests, so it was verified"
        if attempt.get("reason"):
            return str(attempt["reason"])
    return None


def _price(settings: Record) -> Record:
    """Return the price of the profile that a revision was started with, empty if unknown."""
    group: Any = settings
    for name in ("profile", "price"):
        group = group.get(name) if isinstance(group, Mapping) else None
    return group if isinstance(group, Mapping) else {}


class Spent:
    """GPU time of the training of a revision, and its cost."""

    def __init__(self, seconds: int | None, price: Any, currency: Any) -> None:
        """``price``: of one GPU for one hour; None if it is unknown."""
        self.seconds = seconds
        self.currency = str(currency or "")
        self.amount: Decimal | None = None
        if seconds is not None and price is not None:
            try:
                amount = cost.cost(str(price), seconds)
            except InvalidOperation:
                return
            if amount.is_finite():
                self.amount = amount

    @property
    def text(self) -> str | None:
        """The cost with its currency, None if it is unknown."""
        return None if self.amount is None else f"{cost.money(self.amount)} {self.currency}"


def spent(job: Job, record: Record) -> Spent:
    """Return what the training of a revision has used: as charged, otherwise as reported.

    The operator charges from the start of a pod, also while its image is pulled.
    """
    price = _price(configuration(record))
    seconds = record.get("gpuSeconds")
    charged = (job.status.get("cost") or {}).get("gpuHours")
    if record.get("revision") == job.status.get("revision") and charged is not None:
        try:
            seconds = round(Decimal(str(charged)) * cost.SECONDS_PER_HOUR)
        except (InvalidOperation, ValueError, OverflowError):
            seconds = record.get("gpuSeconds")
    used = seconds if isinstance(seconds, int) else None
    return Spent(used, price.get("perGpuHour"), price.get("currency"))
