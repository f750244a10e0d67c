"""Changes one thing of a FineTuneJob, says what happens, and warns if Git will undo it."""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from finetune_api import KIND
from finetune_cli import terminal
from finetune_cli.cluster import ownership
from finetune_cli.cluster.api import Cluster
from finetune_cli.cluster.job import Job
from finetune_cli.options import Context, Format, JobName, Kubeconfig, Namespace, Output

Change = Mapping[str, Any]
Decision = Callable[[Job], tuple[Change, str]]
"""Returns the merge patch for a job, and what it causes. An empty patch changes nothing."""


def verb(decide: Decision) -> Callable[..., None]:
    """Return the function ``run`` of a verb that changes a job as ``decide`` says."""

    def run(
        name: JobName,
        namespace: Namespace = None,
        context: Context = None,
        kubeconfig: Kubeconfig = None,
        output: Output = Format.TEXT,
    ) -> None:
        cluster = Cluster.of(kubeconfig, context, namespace)
        job = Job(object=cluster.job(name))
        change, effect = decide(job)
        if change:
            warn_of_git(job, change)
            cluster.patch_job(job.object, change)
        if output is Format.JSON:
            facts = {"name": job.name, "namespace": job.namespace}
            terminal.document(
                {**facts, "changed": bool(change), "change": change, "effect": effect}
            )
        else:
            terminal.line(f"{KIND} {job.name}: {effect}")

    return run


def warn_of_git(job: Job, change: Change) -> None:
    """Print to stderr that a tool will undo a change of the spec, and what to commit instead."""
    owner = ownership.owner(job.object)
    if owner is None or "spec" not in change:
        return
    warning = (
        f"warning: {owner} applies {KIND} {job.name} from Git, and may undo this change. To keep "
        f"it, commit it to the manifest: {json.dumps({'spec': change['spec']})}"
    )
    terminal.show(terminal.text(warning, terminal.WAITING), sys.stderr)
