"""``ftj diff``: how two revisions of a job differ, in their specs and in their results."""

from typing import Annotated, Any

import typer

from finetune_api import KIND
from finetune_cli import terminal
from finetune_cli.cluster import revisions
from finetune_cli.cluster.api import Cluster
from finetune_cli.cluster.job import Job
from finetune_cli.options import Context, Format, JobName, Kubeconfig, Namespace, Output

Pairs = dict[str, tuple[Any, Any]]
ROWS = "digest of the held-out rows"


def run(
    name: JobName,
    first: Annotated[
        str, typer.Argument(metavar="REV", help="revision, as in the output of ftj status")
    ],
    second: Annotated[str, typer.Argument(metavar="REV", help="revision to compare with")],
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> None:
    """Print the differences. Raises CommandFailed."""
    cluster = Cluster.of(kubeconfig, context, namespace)
    job = Job(object=cluster.job(name))
    records = [job.record(revision) for revision in (first, second)]
    recipes = [
        revisions.recipe(revisions.document(cluster, job, str(record["revision"])), record)
        for record in records
    ]
    spec = revisions.differences(*recipes)
    settings = revisions.differences(*map(revisions.configuration, records))
    results = [revisions.results(job, record) for record in records]
    if output is Format.JSON:
        facts = {"name": job.name, "namespace": job.namespace, "revisions": [first, second]}
        compared = {"spec": spec, "operator": settings, "results": results}
        terminal.document({**facts, **compared, "comparable": _comparable(results)})
        return
    terminal.line(terminal.text(f"{KIND} {job.name}", terminal.TITLE), f"in {job.namespace}")
    head = (first, second)
    _print("Spec", "FIELD", head, spec, "Both revisions have the same spec.")
    _print("Configuration of the operator", "FIELD", head, settings, "")
    shown = {
        label: (results[0].get(label), results[1].get(label))
        for label in dict.fromkeys([*results[0], *results[1]])
        if label != ROWS
    }
    _print("Results", "", head, shown, "Neither revision has a result.")
    if _comparable(results) is False:
        terminal.paragraph(
            "The held-out losses are of different rows: they cannot be compared with each other.",
            terminal.WAITING,
        )


def _comparable(results: list[dict[str, str]]) -> bool | None:
    """Return whether the held-out losses are of the same rows, None if one is unknown."""
    digests = [result.get(ROWS) for result in results]
    return None if None in digests else digests[0] == digests[1]


def _print(title: str, column: str, head: tuple[str, str], pairs: Pairs, nothing: str) -> None:
    if not pairs and not nothing:
        return
    terminal.title(title)
    if not pairs:
        terminal.paragraph(nothing)
        return
    rows = ((name, *map(_text, values)) for name, values in pairs.items())
    terminal.table((column, *head), rows)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
