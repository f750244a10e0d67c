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
    found = evidence.gather(cluster, job)
    ready = job.ready
    means, remedy = remedies.meaning(ready.reason), remedies.remedy(ready.reason)
    if output is Format.JSON:
        facts = {"name": job.name, "namespace": job.namespace, "ready": ready.status}
        cause = {"reason": ready.reason, "message": ready.message, "meaning": means}
        terminal.document({**facts, **cause, "remedy": remedy, "evidence": asdict(found)})
        return
    terminal.line(terminal.text(f"{KIND} {job.name}", terminal.TITLE), "is", _state(job))
    terminal.paragraph(ready.message)
    if means:
        terminal.title("Meaning")
        terminal.paragraph(means)
    if remedy:
        terminal.title("Remedy")
        terminal.paragraph(remedy)
    _print_evidence(job, found)


def _state(job: Job) -> object:
    ready = job.ready
    if ready.true:
        return terminal.text(f"ready: {ready.reason}", terminal.GOOD)
    stalled = job.condition("Stalled").true
    return terminal.text(f"not ready: {ready.reason}", terminal.BAD if stalled else "yellow")


def _print_evidence(job: Job, found: Evidence) -> None:
    rows: list[tuple[str, object]] = []
    row = next((each for each in job.attempts if each.get("stage") == job.stage), None)
    if row is not None:
        text = f"{row['stage']}, attempt {row.get('attempt')}: {row.get('outcome')}"
        reason = f" ({row['reason']})" if row.get("reason") else ""
        rows.append(("Stage", text + reason))
        # Ready usually has the same message.
        if row.get("message") and row["message"] != job.ready.message:
            rows.append(("", row["message"]))
    if found.pod is not None:
        where = f" on node {found.node}" if found.node else ""
        rows.append(("Pod", f"{found.pod}: {found.phase}{where}"))
        rows.append(("Scheduler", found.not_scheduled))
        rows += [("Container", f"{each.name}: {each.text}") for each in found.containers]
    # An event of the operator has the message of Ready.
    events = [each for each in found.events if not each.endswith(job.ready.message)]
    for name, texts in (("Event", events), ("Log", found.log)):
        rows += [(name if at == 0 else "", each) for at, each in enumerate(texts)]
    if any(value for _, value in rows):
        terminal.title("Evidence")
        terminal.pairs(rows)
