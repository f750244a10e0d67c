"""The page of one job: its regions in the order in which a reader needs them."""

import yaml

from finetune_api import KIND
from finetune_cli.cluster.job import Job
from finetune_cli.ui.pages import evidence, headline, ledger, results
from finetune_cli.ui.pages.html import Child, Url, h, url
from finetune_cli.ui.pages.layout import HALF, JOBS, THIRD, TWO_THIRDS, Page, Region, preformatted
from finetune_cli.ui.reading.difference import Difference
from finetune_cli.ui.reading.job import Details


def page(details: Details) -> Page:
    """Return the page."""
    job = details.job
    regions = (
        Region(id="state", title="State", content=headline.state_of(job), width=TWO_THIRDS),
        Region(id="glance", title="At a glance", content=results.glance(job), width=THIRD),
        Region(
            id="losses",
            title="Losses",
            content=results.losses(job, details.history),
            width=TWO_THIRDS,
        ),
        Region(
            id="verification",
            title="Verification",
            content=results.verification(job),
            width=THIRD,
        ),
        Region(id="stages", title="Stages", content=headline.stages(details.stages)),
        Region(id="evaluation", title="Evaluation", content=results.evaluation(job), width=HALF),
        Region(
            id="cost",
            title="Estimate and cost",
            content=results.cost(job, details.stages),
            width=HALF,
        ),
        Region(id="revisions", title="Revisions", content=ledger.revisions(job)),
        Region(id="warnings", title="Warnings", content=headline.warnings(job), width=HALF),
        Region(id="pod", title="Pod", content=evidence.pod(details.pod), width=HALF),
        Region(id="events", title="Events", content=evidence.events(details.events)),
        Region(id="log", title="Log", content=evidence.log(details.log)),
    )
    return Page(
        title=job.name,
        announcement=headline.announcement(job),
        regions=regions,
        path=_path(job),
        actions=(
            h("a", "Playground", href=_url(job, "playground"))
            if (job.status.get("serving") or {}).get("build") or job.status.get("sharedModel")
            else None,
            h("a", "YAML", href=_url(job, "yaml")),
        ),
        section=JOBS,
    )


def object_page(job: Job) -> Page:
    """Return the object as YAML, without the fields that only the API server reads."""
    metadata = {
        name: value for name, value in job.object["metadata"].items() if name != "managedFields"
    }
    text = yaml.safe_dump(
        {**job.object, "metadata": metadata}, sort_keys=False, allow_unicode=True, width=100
    )
    return _about(job, f"{KIND} {job.name} as YAML", preformatted(text, "YAML"))


def difference_page(job: Job, difference: Difference) -> Page:
    """Return how two revisions differ."""
    return _about(
        job, f"Revisions {difference.first} and {difference.second}", ledger.difference(difference)
    )


def _about(job: Job, title: str, content: Child) -> Page:
    back = (_path(job), " / ", h("a", job.name, href=_url(job)))
    region = Region(id="content-of-job", title=title, content=content, live=False, named=False)
    return Page(title=title, regions=(region,), path=back, section=JOBS)


def _path(job: Job) -> Child:
    return h("a", f"{KIND}s", href=url("")), " / ", _namespace(job)


def _namespace(job: Job) -> Child:
    return h("a", job.namespace, href=url("", namespace=job.namespace))


def _url(job: Job, *more: str) -> Url:
    return url("jobs", job.namespace, job.name, *more)
