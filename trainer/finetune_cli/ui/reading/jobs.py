"""A page of the list of jobs, in the Table form of the API server: the columns of kubectl.

The server finds neither text nor states, so filters read the list in pieces, up to a limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api import PLURAL
from finetune_cli.cluster import api
from finetune_cli.cluster.api import NO_API, Cluster, Forbidden, NotFound
from finetune_cli.ui.reading import rights

PER_PAGE = 100
MOST_PIECES = 10
"""Requests for a page with filters; the next page continues from there."""
READY, NOT_READY = "ready", "not-ready"


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What the list shows. ``namespace`` "": all that the user may list."""

    namespace: str = ""
    text: str = ""
    state: str = ""
    after: str = ""
    """Token of the API server with which the page continues the previous one."""

    @property
    def narrow(self) -> bool:
        """Whether rows are left out that the server has sent."""
        return bool(self.text or self.state)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A job: its place, and its cells by column."""

    namespace: str
    name: str
    cells: Mapping[str, str]

    @property
    def ready(self) -> bool:
        """Whether the job is ready."""
        return self.cells.get("Ready") == "True"


@dataclass(frozen=True, kw_only=True)
class JobList:
    """A page of jobs."""

    rows: tuple[Row, ...]
    searched: int
    """Jobs that were compared with the filters."""
    after: str
    """Token of the next page, empty on the last one."""
    remaining: int | None
    only: str | None
    """Namespace of the list, if the user may not list all of them; otherwise None."""


def read(cluster: Cluster, filters: Filters) -> JobList:
    """Return a page of jobs. Raises CommandFailed, and Denied without the right."""
    if filters.namespace:
        return _list(cluster, filters, filters.namespace, only=None)
    try:
        return _list(cluster, filters, None, only=None)
    except Forbidden:
        return _list(cluster, filters, cluster.namespace, only=cluster.namespace)


def _list(cluster: Cluster, filters: Filters, namespace: str | None, only: str | None) -> JobList:
    rows: list[Row] = []
    after, searched = filters.after, 0
    remaining: int | None = None
    for _ in range(MOST_PIECES):
        # A piece has no more rows than the page has room for: the token points behind all of them.
        piece = _piece(cluster, namespace, PER_PAGE - len(rows), after)
        rows += [row for row in piece.rows if _matches(row, filters)]
        after, remaining = piece.after, piece.remaining
        searched += piece.searched
        if not after or len(rows) >= PER_PAGE or not filters.narrow:
            break
    return JobList(rows=tuple(rows), searched=searched, after=after, remaining=remaining, only=only)


def _piece(cluster: Cluster, namespace: str | None, limit: int, after: str) -> JobList:
    where = api.path(PLURAL, namespace, api=api.JOBS)
    token = {"continue": after or None}
    with rights.needs("list", rights.own(PLURAL), namespace):
        try:
            table = cluster.table(where, limit=limit, **token)
        except NotFound:
            raise NotFound(NO_API) from None
    columns = [str(column.get("name")) for column in table.get("columnDefinitions") or ()]
    rows = [_row(columns, row) for row in table.get("rows") or ()]
    metadata = table.get("metadata") or {}
    return JobList(
        rows=tuple(rows),
        searched=len(rows),
        after=str(metadata.get("continue") or ""),
        remaining=metadata.get("remainingItemCount"),
        only=None,
    )


def _row(columns: list[str], row: Mapping[str, Any]) -> Row:
    metadata = (row.get("object") or {}).get("metadata") or {}
    values = row.get("cells") or ()
    cells = {
        name: "" if value is None else str(value)
        for name, value in zip(columns, values, strict=False)
    }
    return Row(
        namespace=str(metadata.get("namespace", "")),
        name=str(metadata.get("name", "")),
        cells=cells,
    )


def _matches(row: Row, filters: Filters) -> bool:
    if filters.state and row.ready != (filters.state == READY):
        return False
    text = filters.text.casefold()
    return any(text in cell.casefold() for cell in (row.namespace, row.name, *row.cells.values()))
