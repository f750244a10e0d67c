"""The list of jobs."""

from collections.abc import Sequence
from dataclasses import replace

from finetune_api import KIND
from finetune_api.v1alpha1.reasons import Reason
from finetune_cli.cluster import remedies
from finetune_cli.ui.pages import messages, states
from finetune_cli.ui.pages.html import Child, Element, h, url
from finetune_cli.ui.pages.layout import JOBS, Page, Region, note, state, table
from finetune_cli.ui.reading.jobs import NOT_READY, READY, Filters, JobList, Row
from finetune_cli.ui.reading.rights import Right

COLUMNS = {
    "Serving": "Serving revision",
    "Progress": "Progress",
    "ETA": "ETA",
    "Loss": "Loss",
    "Cost": "Cost",
    "Age": "Age",
    "Message": "Message",
}
"""Titles of the columns of the API server after name and state, if a job has a value in them."""
STATES = (("", "all"), (READY, "ready"), (NOT_READY, "not ready"))


def page(jobs: JobList, filters: Filters) -> Page:
    """Return the page."""
    return Page(
        title=f"{KIND}s",
        regions=(
            _filters(filters),
            Region(id="jobs", title="Jobs", content=_jobs(jobs, filters), named=False),
        ),
        actions=h("a", "New job", href=url("new")),
        section=JOBS,
    )


def denied(right: Right, message: str, filters: Filters) -> Page:
    """Return which right is missing, with the form: the user may have it in another namespace."""
    page = messages.denied(right, message)
    return replace(page, regions=(_filters(filters), *page.regions), section=JOBS)


def _filters(filters: Filters) -> Region:
    return Region(id="filters", title="Filters", content=_form(filters), live=False, named=False)


def _form(filters: Filters) -> Element:
    options = [
        h("option", words, value=value, selected=value == filters.state) for value, words in STATES
    ]
    form = h(
        "form",
        h("label", "Text ", h("input", name="text", value=filters.text, maxlength="200")),
        h(
            "label",
            "Namespace ",
            h("input", name="namespace", value=filters.namespace, maxlength="63"),
        ),
        h("label", "State ", h("select", options, name="state")),
        h("button", "Filter"),
        method="get",
        action=url(""),
        class_="filters",
    )
    # The script of the page folds it on a narrow screen.
    return h("details", h("summary", "Filters"), form, id="filter-form", open=True, class_="fold")


def _jobs(job_list: JobList, filters: Filters) -> Child:
    present = {column for row in job_list.rows for column in COLUMNS if _text(row, column)}
    columns = [column for column in COLUMNS if column in present]
    head = ("Name", "Namespace", "State", *(COLUMNS[column] for column in columns))
    return (
        _notes(job_list, filters),
        table("Jobs", head, [_row(row, columns) for row in job_list.rows])
        if job_list.rows
        else None,
        _next(job_list, filters),
    )


def _notes(job_list: JobList, filters: Filters) -> list[Element]:
    notes: list[Element] = []
    if job_list.only:
        notes.append(
            note(
                f"Only the jobs of namespace {job_list.only} are listed, because you may not list "
                f"{KIND}s in all namespaces. Enter another namespace above to list its jobs."
            )
        )
    if not job_list.rows:
        notes.append(note(f"No {KIND} matches." if filters.narrow else f"There is no {KIND}."))
    if filters.narrow:
        more = ", and there are more" if job_list.after else ""
        notes.append(note(f"{job_list.searched} jobs were searched{more}."))
    return notes


def _row(row: Row, columns: Sequence[str]) -> tuple[Child, ...]:
    words = _state(row)
    name = h("a", row.name, href=url("jobs", row.namespace, row.name))
    return (
        name,
        row.namespace,
        state(words, states.of_reason(words, ready=row.ready)),
        *(_cell(column, _text(row, column)) for column in columns),
    )


def _state(row: Row) -> str:
    return row.cells.get("State") or Reason.PENDING


def _text(row: Row, column: str) -> str:
    """Return the text of a cell: without a message of the operator, the meaning of the state."""
    text = row.cells.get(column, "")
    if text or column != "Message" or row.ready:
        return text
    return remedies.meaning(_state(row)) or ""


def _cell(column: str, text: str) -> Child:
    """Return a cell. Lines do not break a cost, and the expected range of it."""
    cost, begin, expected = text.partition(" (")
    if column != "Cost" or not text:
        return text
    if not begin:
        return h("span", cost, class_="whole")
    return h("span", cost, class_="whole"), " ", h("span", f"({expected}", class_="whole")


def _next(job_list: JobList, filters: Filters) -> Element | None:
    query = {"namespace": filters.namespace, "text": filters.text, "state": filters.state}
    links: list[Element] = []
    if filters.after:
        links.append(h("li", h("a", "First page", href=url("", **query))))
    if job_list.after:
        rest = f" ({job_list.remaining} more)" if job_list.remaining and not filters.narrow else ""
        to = url("", **query, after=job_list.after)
        links.append(h("li", h("a", f"Next page{rest}", href=to)))
    return h("nav", h("ul", links), aria_label="Pages of the list") if links else None
