"""The revisions of a job, and how two of them differ."""

from typing import Any

from finetune_cli.cluster import revisions as ledger
from finetune_cli.cluster.job import Job
from finetune_cli.ui.pages import states
from finetune_cli.ui.pages.html import Child, Element, h, url
from finetune_cli.ui.pages.layout import note, state, table
from finetune_cli.ui.reading.difference import Difference, Pairs

ROWS = "digest of the held-out rows"
COLUMNS = {
    "training": "Training",
    "held-out loss": "Held-out loss",
    "verification": "Verification",
    "GPU-hours": "GPU-hours",
    "cost": "Cost",
}


def revisions(job: Job) -> Child:
    """Return the revisions, the newest first, and the form to compare two of them."""
    if not job.revisions:
        return note("No revision has begun.")
    rows: list[tuple[Child, ...]] = []
    for record in reversed(job.revisions):
        results = ledger.results(job, record)
        name = str(record.get("revision"))
        rows.append((name, _uses(job, name), *(results.get(key, "-") for key in COLUMNS)))
    shown = table("Revisions, the newest first", ("Revision", "Use", *COLUMNS.values()), rows)
    return shown, _form(job) if len(rows) > 1 else None


def _uses(job: Job, revision: str) -> Child:
    """Return what a revision is used for, empty for none."""
    serves = (job.status.get("serving") or {}).get("revision") == revision
    words = "current spec" if job.status.get("revision") == revision else ""
    return (state("serving", states.GOOD), " ", words) if serves else words


def _form(job: Job) -> Element:
    names = [str(record.get("revision")) for record in job.revisions]

    def choice(label: str, name: str, chosen: str) -> Element:
        options = [
            h("option", revision, value=revision, selected=revision == chosen) for revision in names
        ]
        return h("label", f"{label} ", h("select", options, name=name))

    return h(
        "form",
        choice("Revision", "first", names[-2]),
        choice("and", "second", names[-1]),
        h("button", "Compare"),
        method="get",
        action=url("jobs", job.namespace, job.name, "diff"),
        class_="filters",
    )


def difference(compared: Difference) -> Child:
    """Return the values that differ, and the results of both revisions."""
    head = (compared.first, compared.second)
    digests = compared.results.get(ROWS, (None, None))
    other_rows = None not in digests and digests[0] != digests[1]
    results = {name: values for name, values in compared.results.items() if name != ROWS}
    return (
        h("h3", "Spec"),
        note(compared.spec.problem, "problem")
        if compared.spec.value is None
        else _pairs("Spec", head, compared.spec.value, "Both revisions have the same spec."),
        h("h3", "Configuration of the operator"),
        _pairs("Configuration of the operator", head, compared.settings, "It is the same."),
        h("h3", "Results"),
        _pairs("Results", head, results, "Neither revision has a result."),
        note("The held-out losses are of different rows: they cannot be compared.", "problem")
        if other_rows
        else None,
    )


def _pairs(title: str, head: tuple[str, str], pairs: Pairs, nothing: str) -> Child:
    if not pairs:
        return note(nothing)
    rows = ((name, *map(_text, values)) for name, values in pairs.items())
    return table(title, ("Value", *head), rows)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
