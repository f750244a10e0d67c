"""What each address shows: reads the cluster, and renders the page."""

import csv
import io
import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

from finetune_api import KIND
from finetune_cli.cluster import history
from finetune_cli.cluster.api import Cluster, NotFound
from finetune_cli.cluster.chat_api import Interruption
from finetune_cli.cluster.history import History
from finetune_cli.errors import CommandFailed, WrongCall
from finetune_cli.plotting import png, svg
from finetune_cli.ui.pages import catalog as catalog_pages
from finetune_cli.ui.pages import endpoints as endpoint_pages
from finetune_cli.ui.pages import job as job_pages
from finetune_cli.ui.pages import jobs as job_list
from finetune_cli.ui.pages import new_job as new_job_pages
from finetune_cli.ui.pages import playground as playground_pages
from finetune_cli.ui.pages import results
from finetune_cli.ui.pages.html import Url, url
from finetune_cli.ui.pages.layout import Page
from finetune_cli.ui.reading import catalog, difference, endpoints, job, jobs, new_job, playground
from finetune_cli.ui.reading.jobs import Filters
from finetune_cli.ui.reading.rights import Denied

NAME = "[a-z0-9][-a-z0-9.]{0,252}"
"""A name of an object or of a namespace: no path of the API server that leads elsewhere."""
JOB = f"/jobs/{{namespace:{NAME}}}/{{name:{NAME}}}"
ENDPOINT = f"/endpoints/{{namespace:{NAME}}}/{{name:{NAME}}}"
LONGEST_FILTER = 4096
Texts = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class View:
    """A page by the pattern of its address. read: with the names in the address, and the query."""

    pattern: str
    read: Callable[[Cluster, Texts, Texts], Page]
    live: bool = False


@dataclass(frozen=True, kw_only=True)
class Question:
    """What answers a form, part by part. ask: with the names in the address, and the form.

    An interruption ends it from another thread.
    """

    pattern: str
    ask: Callable[[Cluster, Texts, Texts, Interruption], Generator[str, None, None]]


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a form leads to: a page, or the address of a page."""

    pattern: str
    send: Callable[[Cluster, Texts], Page | Url]


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file by the pattern of its address. read: its text, or its bytes."""

    pattern: str
    read: Callable[[Cluster, Texts], str | bytes]
    content_type: str


def _jobs(cluster: Cluster, place: Texts, query: Texts) -> Page:
    names = ("namespace", "text", "state", "after")
    filters = Filters(**{name: query.get(name, "").strip()[:LONGEST_FILTER] for name in names})
    if filters.namespace and not re.fullmatch(NAME, filters.namespace):
        raise WrongCall(f"{filters.namespace} is not the name of a namespace: correct it")
    try:
        return job_list.page(jobs.read(cluster, filters), filters)
    except Denied as error:
        return job_list.denied(error.right, str(error), filters)


def _job(cluster: Cluster, place: Texts, query: Texts) -> Page:
    return job_pages.page(job.details(cluster, place["namespace"], place["name"]))


def _object(cluster: Cluster, place: Texts, query: Texts) -> Page:
    return job_pages.object_page(job.find(cluster, place["namespace"], place["name"]))


def _difference(cluster: Cluster, place: Texts, query: Texts) -> Page:
    shown_job = job.find(cluster, place["namespace"], place["name"])
    first, second = query.get("first", ""), query.get("second", "")
    return job_pages.difference_page(shown_job, difference.read(cluster, shown_job, first, second))


def _endpoints(cluster: Cluster, place: Texts, query: Texts) -> Page:
    return endpoint_pages.page(endpoints.read(cluster))


def _endpoint(cluster: Cluster, place: Texts, query: Texts) -> Page:
    endpoint = endpoints.find(cluster, place["namespace"], place["name"])
    return endpoint_pages.endpoint_page(endpoint)


def _money(cluster: Cluster, place: Texts, query: Texts) -> Page:
    return catalog_pages.money(catalog.money(cluster))


def _profiles(cluster: Cluster, place: Texts, query: Texts) -> Page:
    return catalog_pages.profiles(catalog.profiles(cluster))


def _job_playground(cluster: Cluster, place: Texts, query: Texts) -> Page:
    return playground_pages.page(playground.of_job(cluster, place))


def _endpoint_playground(cluster: Cluster, place: Texts, query: Texts) -> Page:
    return playground_pages.page(playground.of_endpoint(cluster, place))


def _new(cluster: Cluster, place: Texts, query: Texts) -> Page:
    return new_job_pages.page(new_job.offer(cluster))


def _draft(cluster: Cluster, form: Texts) -> Page | Url:
    return new_job_pages.draft_page(new_job.draft(cluster, form), form)


def _create(cluster: Cluster, form: Texts) -> Page | Url:
    return url("jobs", *new_job.create(cluster, form))


def _history(cluster: Cluster, place: Texts) -> History:
    shown_job = job.find(cluster, place["namespace"], place["name"])
    losses = job.loss_history(cluster, shown_job)
    if losses.value is None:
        raise CommandFailed(losses.problem)
    if not any(losses.value.series.values()):
        raise NotFound(f"No loss is known of the present revision of {KIND} {shown_job.name}.")
    return losses.value


def _csv(cluster: Cluster, place: Texts) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(history.rows([_history(cluster, place)]))
    return written.getvalue()


def _svg(cluster: Cluster, place: Texts) -> str:
    return svg.draw(results.curves(_history(cluster, place)), title=f"{KIND} {place['name']}")


def _png(cluster: Cluster, place: Texts) -> bytes:
    return png.draw(results.curves(_history(cluster, place)), title=f"{KIND} {place['name']}")


VIEWS = (
    View(pattern="/", read=_jobs, live=True),
    View(pattern=JOB, read=_job, live=True),
    View(pattern=f"{JOB}/yaml", read=_object),
    View(pattern=f"{JOB}/diff", read=_difference),
    View(pattern="/endpoints", read=_endpoints, live=True),
    View(pattern=ENDPOINT, read=_endpoint, live=True),
    View(pattern=f"{JOB}/playground", read=_job_playground),
    View(pattern=f"{ENDPOINT}/playground", read=_endpoint_playground),
    View(pattern="/new", read=_new),
    View(pattern="/usage", read=_money, live=True),
    View(pattern="/profiles", read=_profiles),
)
DOWNLOADS = (
    Download(pattern=f"{JOB}/curve.csv", read=_csv, content_type="text/csv"),
    Download(pattern=f"{JOB}/curve.svg", read=_svg, content_type="image/svg+xml"),
    Download(pattern=f"{JOB}/curve.png", read=_png, content_type="image/png"),
)
QUESTIONS = (
    Question(pattern=f"{JOB}/ask", ask=playground.ask_job),
    Question(pattern=f"{ENDPOINT}/ask", ask=playground.ask_endpoint),
)
FORMS = (Form(pattern="/new", send=_draft), Form(pattern="/new/create", send=_create))
