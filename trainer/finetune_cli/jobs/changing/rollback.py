"""``ftj rollback``: returns the spec to a revision of the ledger."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer
import yaml

from finetune_api import KIND
from finetune_cli import terminal
from finetune_cli.cluster import api, ownership, revisions, rollback
from finetune_cli.cluster.api import Cluster, Forbidden, NotFound
from finetune_cli.cluster.job import Job
from finetune_cli.cluster.rollback import Rollback
from finetune_cli.errors import CommandFailed
from finetune_cli.options import Context, Format, JobName, Kubeconfig, Namespace, Output


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What the operator does after the change."""

    text: str
    trains_again: bool


def run(
    name: JobName,
    revision: Annotated[
        str, typer.Argument(metavar="REV", help="revision, as in the output of ftj status")
    ],
    apply: Annotated[
        bool, typer.Option("--apply", help="make the change, after a question")
    ] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="ask no question")] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> None:
    """Print the change, or make it. Raises CommandFailed."""
    cluster = Cluster.of(kubeconfig, context, namespace)
    job = Job(object=cluster.job(name))
    record = job.record(revision)
    planned = rollback.rollback(job.spec, record, revisions.document(cluster, job, revision))
    effect = _effect(cluster, job, record, planned)
    owner = ownership.owner(job.object)
    if output is Format.JSON:
        facts = {"name": job.name, "revision": revision, "change": planned.change, "owner": owner}
        terminal.document({**facts, "trainsAgain": effect.trains_again, "effect": effect.text})
    else:
        _print(job, revision, planned, effect.text, owner=owner, apply=apply)
    if not (apply and planned.change):
        return
    if not yes and not _confirmed(job):
        raise typer.Abort
    cluster.patch_job(job.object, {"spec": planned.change})
    if output is Format.TEXT:
        terminal.line(f"{KIND} {name} is changed. To follow it, run: ftj watch {name}")


def _print(
    job: Job, revision: str, planned: Rollback, effect: str, *, owner: str | None, apply: bool
) -> None:
    if not planned.change:
        terminal.line(f"The spec of {KIND} {job.name} already describes revision {revision}.")
        return
    terminal.line(f"To return {KIND} {job.name} to revision {revision}, its spec changes by:")
    written = yaml.safe_dump({"spec": planned.change}, sort_keys=False, allow_unicode=False)
    terminal.lines(written, indent="  ")
    terminal.line(effect)
    if owner is not None:
        terminal.line(
            f"{owner} applies this job from Git and may undo a change in the cluster: commit the "
            "lines above to its manifest instead.",
            style=terminal.WAITING,
        )
    elif not apply:
        terminal.line(f"To make the change, run: ftj rollback {job.name} {revision} --apply")


def _effect(cluster: Cluster, job: Job, record: Mapping[str, Any], planned: Rollback) -> Effect:
    revision = record["revision"]
    if not planned.exact:
        return Effect(
            text="The operator trains a new revision with this recipe, because the value of "
            f"spec.rerun or of another field with which revision {revision} started is not "
            "recorded.",
            trains_again=True,
        )
    stages = record.get("stages") or ()
    if not any(stage["stage"] == "train" and stage["outcome"] == "Completed" for stage in stages):
        return Effect(
            text=f"Revision {revision} was not trained to its end: its training continues.",
            trains_again=True,
        )
    try:
        cluster.get(api.path("persistentvolumeclaims", job.namespace, f"{job.name}-{revision}"))
    except NotFound:
        return Effect(
            text=f"The volume of revision {revision} was deleted, so it is trained again.",
            trains_again=True,
        )
    except Forbidden:
        return Effect(
            text=f"Revision {revision} is trained: if its volume still exists, which you may not "
            "see, it is not trained again.",
            trains_again=False,
        )
    return Effect(
        text=f"Revision {revision} is trained, and its volume exists: it is not trained again.",
        trains_again=False,
    )


def _confirmed(job: Job) -> bool:
    if not sys.stdin.isatty():
        raise CommandFailed("there is no terminal to ask a question: to change the job, add --yes")
    return typer.confirm(f"Change {KIND} {job.name} in namespace {job.namespace}?", err=True)
