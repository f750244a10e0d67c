"""``ftj cost``: GPU-hours and cost, per revision of a job, or per job and month of a namespace."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any

import typer

from finetune_api import KIND
from finetune_api.contracts.cost import hours, money
from finetune_api.v1alpha1.budgets.usage import NAMESPACE_LABEL, USAGE_KIND, USAGE_PLURAL
from finetune_cli import terminal
from finetune_cli.cluster import api, revisions
from finetune_cli.cluster.api import Cluster, Forbidden, NotFound
from finetune_cli.cluster.job import Job
from finetune_cli.cluster.revisions import Spent
from finetune_cli.options import Context, Format, Kubeconfig, Namespace, Output, job_names

ONE_JOB = (
    "GPU time of trainings, of the revisions in the ledger. The serving pods, and revisions that "
    "were pruned, are only in the usage of the namespace: ftj cost"
)


def run(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="name of the FineTuneJob; default: all jobs of the namespace, and its usage",
            autocompletion=job_names,
        ),
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> None:
    """Print the cost. Raises CommandFailed."""
    cluster = Cluster.of(kubeconfig, context, namespace)
    if name is not None:
        _show_job(Job(object=cluster.job(name)), output)
        return
    jobs = [Job(object=object_) for object_ in cluster.jobs()]
    totals = [(job, _spent(job)) for job in jobs]
    usage, why = _usage(cluster)
    if output is Format.JSON:
        terminal.document(
            {
                "namespace": cluster.namespace,
                "jobs": [{"name": job.name, **_sum(spent)} for job, spent in totals],
                "usage": None if usage is None else [_month(month) for month in usage],
            }
        )
        return
    if jobs:
        rows = ((job.name, *_cells(spent)) for job, spent in totals)
        terminal.table(("JOB", "GPU-HOURS", "COST"), rows, indent=0)
    else:
        terminal.line(f"Namespace {cluster.namespace} has no {KIND}.")
    if usage:
        terminal.title(f"Usage of namespace {cluster.namespace}, in GPU-hours")
        months = (_month(month).values() for month in usage)
        shown = (["-" if cell is None else cell for cell in values] for values in months)
        terminal.table(("MONTH", "TRAINING", "SERVING", "COST"), shown)
    elif why:
        terminal.line(why, style=terminal.QUIET)


def _show_job(job: Job, output: Format) -> None:
    spent = _spent(job)
    names = [str(record.get("revision")) for record in job.revisions]
    expected = (job.status.get("cost") or {}).get("expectedCost")
    if output is Format.JSON:
        by_revision = [
            {"revision": name, **_sum([training])}
            for name, training in zip(names, spent, strict=True)
        ]
        facts = {"name": job.name, "namespace": job.namespace, "expectedCost": expected}
        terminal.document({**facts, "revisions": by_revision, **_sum(spent)})
        return
    if not names:
        terminal.line(f"{KIND} {job.name} has not started a revision yet.")
        return
    rows = [(name, *_cells([training])) for name, training in zip(names, spent, strict=True)]
    terminal.table(("REVISION", "GPU-HOURS", "COST"), [*rows, ("all", *_cells(spent))], indent=0)
    if isinstance(expected, Mapping):
        currency = job.status["cost"].get("currency", "")
        low, high = expected.get("low"), expected.get("high")
        terminal.line(f"Revision {job.status.get('revision')}: {low}-{high} {currency} expected.")
    terminal.line(ONE_JOB, style=terminal.QUIET)


def _spent(job: Job) -> list[Spent]:
    return [revisions.spent(job, record) for record in job.revisions]


def _sum(spent: Sequence[Spent]) -> dict[str, Any]:
    seconds = [training.seconds for training in spent if training.seconds is not None]
    amounts: dict[str, Decimal] = {}
    for training in spent:
        if training.amount is not None:
            amounts[training.currency] = (
                amounts.get(training.currency, Decimal(0)) + training.amount
            )
    return {
        "gpuHours": hours(sum(seconds)) if seconds else None,
        "cost": {currency: money(amount) for currency, amount in sorted(amounts.items())},
    }


def _cells(spent: Sequence[Spent]) -> tuple[str, str]:
    total = _sum(spent)
    costs = [f"{amount} {currency}" for currency, amount in total["cost"].items()]
    return total["gpuHours"] or "-", " + ".join(costs) or "-"


def _usage(cluster: Cluster) -> tuple[list[dict[str, Any]] | None, str]:
    """Return the usage of the namespace by month, or None and the reason."""
    selector = f"{NAMESPACE_LABEL}={cluster.namespace}"
    try:
        usages = cluster.items(api.path(USAGE_PLURAL, api=api.JOBS), labelSelector=selector)
    except Forbidden:
        return None, (
            f"You may not list {USAGE_KIND} objects, which have the months of the namespace with "
            "its serving pods: ask an administrator of the cluster."
        )
    except NotFound:
        return (
            None,
            f"The cluster has no {USAGE_KIND} API: its operator is of an older version.",
        )
    return sorted(usages, key=lambda usage: str((usage.get("spec") or {}).get("month"))), ""


def _month(usage: Mapping[str, Any]) -> dict[str, Any]:
    spec, status = usage.get("spec") or {}, usage.get("status") or {}
    facts = {field: status.get(field) for field in ("training", "serving", "cost")}
    return {"month": spec.get("month"), **facts}
