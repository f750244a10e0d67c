"""``ftj logs``: the log of the stage that matters, that is, of the one that runs or has failed."""

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from finetune_api import KIND
from finetune_api.safety.printable import escaped
from finetune_cli import terminal
from finetune_cli.cluster import evidence, pods
from finetune_cli.cluster.api import Cluster
from finetune_cli.cluster.job import STAGES, Job
from finetune_cli.errors import CommandFailed, WrongCall
from finetune_cli.options import Context, Format, JobName, Kubeconfig, Namespace, Output


def run(
    name: JobName,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="continue to print lines until the pod ends")
    ] = False,
    stage: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE",
            help=f"stage whose log is printed: {', '.join(STAGES)}; default: the stage that has "
            "failed, otherwise the one that runs, otherwise the last one",
        ),
    ] = None,
    container: Annotated[
        str | None,
        typer.Option(
            "-c",
            "--container",
            metavar="NAME",
            help="container of the pod; default: the one that has failed, otherwise the first",
        ),
    ] = None,
    previous: Annotated[
        bool, typer.Option("-p", "--previous", help="print the log before the last restart")
    ] = False,
    tail: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="print only the last N lines")
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> None:
    """Print the log. Raises CommandFailed."""
    if stage is not None and stage not in STAGES:
        raise WrongCall(f"--stage {stage}: set one of {', '.join(STAGES)}")
    cluster = Cluster.of(kubeconfig, context, namespace)
    job = Job(object=cluster.job(name))
    job_pods = evidence.pods_of(cluster, job)
    wanted = stage or job.stage
    pod = pods.newest(job_pods, wanted)
    if pod is None:
        raise CommandFailed(_absent(job, wanted, job_pods))
    chosen = container or _container(pod)
    lines = cluster.lines(
        evidence.log_path(job, pod),
        container=chosen,
        follow="true" if follow else None,
        previous="true" if previous else None,
        tailLines=tail,
    )
    if output is Format.JSON:
        facts = {"pod": pod["metadata"]["name"], "stage": wanted, "container": chosen}
        terminal.document({**facts, "lines": list(lines)})
        return
    title = f"log of pod {pod['metadata']['name']}, container {chosen}"
    terminal.show(terminal.text(title, terminal.QUIET), sys.stderr)
    for line in lines:
        # Other control characters could hide lines in a terminal.
        print(escaped(line, keep="\t"), flush=follow)


def _container(pod: Mapping[str, Any]) -> str:
    failed = next(
        (container.name for container in pods.containers(pod) if not container.healthy), None
    )
    return failed or str(pod["spec"]["containers"][0]["name"])


def _absent(job: Job, stage: str | None, job_pods: list[dict[str, Any]]) -> str:
    if stage is None:
        return f"{KIND} {job.name} has not started a stage yet: read its state with ftj status"
    others = sorted({str(pods.label(pod, pods.STAGE)) for pod in job_pods})
    hint = f"; --stage can be {' or '.join(others)}" if others else ""
    return (
        f"{KIND} {job.name} has no pod of the stage {stage}, or you may not list pods in namespace "
        f"{job.namespace}: read the state of the job with ftj why{hint}"
    )
