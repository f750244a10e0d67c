"""``ftj why``: the cause of a job's state, the remedy, and the evidence."""

from dataclasses import asdict

from finetune_api import KIND
from finetune_cli import terminal
from finetune_cli.cluster import evidence, remedies
from finetune_cli.cluster.api import Cluster
from finetune_cli.cluster.evidence import Evidence
from finetune_cli.cluster.job import Job
from finetune_cli.options import Context, Format, JobName, Kubeconfig, Namespace, Output


def run(
    name: JobName,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> None:
    """Print cause, remedy and evidence. Raises CommandFailed."""
    cluster = Cluster.of(kubeconfig, context, namespace)
    job = Job(object=cluster.job(name))
    gathered = evidence.gather(cluster, job)
    ready = job.ready
    means, remedy = remedies.meaning(ready.reason), remedies.remedy(ready.reason)
    if output is Format.JSON:
        facts = {"name": job.name, "namespace": job.namespace, "ready": ready.status}
        cause = {"reason": ready.reason, "message": ready.message, "meaning": means}
        terminal.document({**facts, **cause, "remedy": remedy, "evidence": asdict(gathered)})
        return
    terminal.line(terminal.text(f"{KIND} {job.name}", terminal.TITLE), "is", _state(job))
    terminal.paragraph(ready.message)
    if means:
        terminal.title("Meaning")
        terminal.paragraph(means)
    if remedy:
        terminal.title("Remedy")
        terminal.paragraph(remedy)
    _print_evidence(job, gathered)


def _state(job: Job) -> object:
    ready = job.ready
    if ready.true:
        return terminal.text(f"ready: {ready.reason}", terminal.GOOD)
    stalled = job.condition("Stalled").true
    return terminal.text(f"not ready: {ready.reason}", terminal.BAD if stalled else "yellow")


def _print_evidence(job: Job, gathered: Evidence) -> None:
    rows: list[tuple[str, object]] = []
    row = next((attempt for attempt in job.attempts if attempt.get("stage") == job.stage), None)
    if row is not None:
        text = f"{row['stage']}, attempt {row.get('attempt')}: {row.get('outcome')}"
        reason = f" ({row['reason']})" if row.get("reason") else ""
        rows.append(("Stage", text + reason))
        # Ready usually has the same message.
        if row.get("message") and row["message"] != job.ready.message:
            rows.append(("", row["message"]))
    if gathered.pod is not None:
        where = f" on node {gathered.node}" if gathered.node else ""
        rows.append(("Pod", f"{gathered.pod}: {gathered.phase}{where}"))
        rows.append(("Scheduler", gathered.not_scheduled))
        rows += [
            ("Container", f"{container.name}: {container.text}")
            for container in gathered.containers
        ]
    # An event of the operator has the message of Ready.
    events = [event for event in gathered.events if not event.endswith(job.ready.message)]
    for name, texts in (("Event", events), ("Log", gathered.log)):
        rows += [(name if at == 0 else "", line) for at, line in enumerate(texts)]
    if any(value for _, value in rows):
        terminal.title("Evidence")
        terminal.pairs(rows)
