"""The page of one job: its regions in the order in which a reader needs them."""

import yaml

from finetune_api import KIND
from finetune_cli.cluster.job import Job
from finetune_cli.ui.pages import evidence, headline, ledger, results
from finetune_cli.ui.pages.html import Child, h, url
from finetune_cli.ui.pages.layout import Page, Region, note, preformatted
from finetune_cli.ui.reading.difference import Difference
from finetune_cli.ui.reading.job import Details


def page(found: Details) -> Page:
    """Return the page."""
    job = found.job
    regions = (
        Region(id="state", title="State", content=headline.state_of(job)),
        Region(id="stages", title="Stages", content=headline.stages(found.stages)),
        Region(id="losses", title="Losses", content=results.losses(job, found.history)),
        Region(id="verification", title="Verification", content=results.verification(job)),
        Region(id="evaluation", title="Evaluation", content=results.evaluation(job)),
        Region(id="cost", title="Estimate and cost", content=results.cost(job, found.stages)),
        Region(id="revisions", title="Revisions", content=ledger.revisions(job)),
        Region(id="warnings", title="Warnings", content=headline.warnings(job)),
        Region(id="pod", title="Pod", content=evidence.pod(found.pod)),
        Region(id="events", title="Events", content=evidence.events(found.events)),
        Region(id="log", title="Log", content=evidence.log(found.log)),
        Region(id="object", title="Object", content=_links(job), live=False),
    )
    return Page(
        title=f"{KIND} {job.name}",
        announcement=headline.announcement(job),
        regions=regions,
    )


def object_page(job: Job) -> Page:
    """Return the object as YAML, without the fields that only the API server reads."""
    metadata = {
        name: value for name, value in job.object["metadata"].items() if name != "managedFields"
    }
    text = yaml.safe_dump(
        {**job.object, "metadata": metadata}, sort_keys=False, allow_unicode=True, width=100
    )
    return _about(job, "Object", preformatted(text, "YAML"))


def difference_page(job: Job, found: Difference) -> Page:
    """Return how two revisions differ."""
    return _about(job, f"Revisions {found.first} and {found.second}", ledger.difference(found))


def _about(job: Job, title: str, content: Child) -> Page:
    back = h("a", f"{KIND} {job.name}", href=url("jobs", job.namespace, job.name))
    region = Region(id="content-of-job", title=title, content=(note(back), content), live=False)
    return Page(title=f"{KIND} {job.name}", regions=(region,))


def _links(job: Job) -> Child:
    place = ("jobs", job.namespace, job.name)
    return h("p", h("a", "YAML", href=url(*place, "yaml")))
