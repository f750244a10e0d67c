"""The form of a new job, and the page with its manifest and its plan."""

from collections.abc import Mapping, Sequence
from itertools import groupby

import yaml

from finetune_api import KIND
from finetune_cli.planning import report
from finetune_cli.planning.job_plan import Code
from finetune_cli.ui.pages import states
from finetune_cli.ui.pages.html import Child, Element, h, url
from finetune_cli.ui.pages.layout import (
    JOBS,
    THIRD,
    TOKEN,
    TWO_THIRDS,
    Page,
    Region,
    note,
    pairs,
    preformatted,
    state,
)
from finetune_cli.ui.reading.new_job import Draft, Field, Offer

FIRST = (
    "model.source",
    "dataset.source",
    "dataset.format",
    "training.epochs",
    "training.learningRate",
    "training.effectiveBatchSize",
    "training.sequenceLength",
    "training.lora.r",
)
"""Fields that most jobs set; the form has all others below."""
PROFILE = "profile"
OUTCOMES = {
    Code.INVALID: ("not valid", states.BAD),
    Code.REJECTED: ("will be rejected", states.BAD),
}
OPTION = ": set --"
"""Begin of a hint about an option of ``ftj plan``, which the form does not have."""
Texts = Mapping[str, str]


def page(offered: Offer) -> Page:
    """Return the form."""
    first = [field for name in FIRST for field in offered.fields if field.name == name]
    others = [
        field for field in offered.fields if field.name != PROFILE and field.name not in FIRST
    ]
    content = h(
        "form",
        TOKEN,
        _text("name", "Name", "Name of the job.", required=True),
        _text("namespace", "Namespace", "Namespace of the job.", value=offered.namespace),
        _choice(PROFILE, PROFILE, "Profile, which has defaults and limits.", offered.profiles),
        map(_field, first),
        h("h3", "Further fields"),
        [_group(name, [*fields]) for name, fields in groupby(others, lambda field: field.path[0])],
        _download() if offered.downloads else None,
        h("div", h("button", "Show manifest and plan"), class_="filters"),
        method="post",
        action=url("new"),
        class_="form",
    )
    about = note(
        f"The fields are those of the {KIND} API of this cluster; a field that is empty has its "
        "default. Nothing is created before you have seen the plan."
    )
    region = Region(id="new", title="Fields", content=(about, content), live=False, named=False)
    return Page(title="New job", regions=(region,), path=_path(), section=JOBS)


def draft_page(draft: Draft, form: Texts) -> Page:
    """Return manifest and plan, with the button that creates the job, if nothing forbids it."""
    text = yaml.safe_dump(dict(draft.manifest), sort_keys=False, allow_unicode=True)
    regions = (
        Region(id="plan", title="Plan", content=_plan(draft, form), live=False, width=TWO_THIRDS),
        Region(
            id="manifest",
            title="Manifest",
            content=preformatted(text, "YAML"),
            live=False,
            width=THIRD,
        ),
    )
    return Page(
        title=f"New job {draft.manifest['metadata']['name']}",
        regions=regions,
        path=_path(),
        section=JOBS,
    )


def _plan(draft: Draft, form: Texts) -> Child:
    plan = draft.plan
    words, kind = OUTCOMES.get(plan.code, ("valid", states.GOOD))
    facts = (
        (name[:1].upper() + name[1:], text.partition(OPTION)[0])
        for name, text in report.facts(plan)
    )
    return (
        h("p", state(words, kind)),
        h("p", report.headline(plan), class_="message"),
        pairs(facts),
        _create(draft, form),
    )


def _create(draft: Draft, form: Texts) -> Child:
    metadata = draft.manifest["metadata"]
    if draft.plan.errors:
        return note("Go back, and correct the fields that the plan names.")
    if draft.owner:
        return note(
            f"{draft.owner} applies the jobs of namespace {metadata['namespace']} from Git: add "
            "the manifest to its repository."
        )
    if draft.exists:
        return note(
            f"{KIND} {metadata['name']} exists already: choose another name, or change the job "
            "with kubectl."
        )
    hidden = [h("input", type="hidden", name=name, value=value) for name, value in form.items()]
    return h(
        "form",
        TOKEN,
        hidden,
        h("button", "Create the job"),
        method="post",
        action=url("new", "create"),
        class_="filters",
    )


def _download() -> Element:
    return h(
        "label",
        h("span", h("input", type="checkbox", name="download", value="yes", checked=True)),
        "Read config.json of the base model from its source, to estimate memory and time",
    )


def _group(name: str, fields: Sequence[Field]) -> Element:
    return h(
        "details",
        h("summary", name),
        h("div", map(_field, fields), class_="form"),
        id=f"group-{name}",
    )


def _field(field: Field) -> Element:
    if field.type == "boolean":
        return _choice(field.name, field.name, field.about, ("true", "false"))
    if field.choices:
        return _choice(field.name, field.name, field.about, field.choices)
    mode = {"integer": "numeric", "number": "decimal"}.get(field.type)
    return _text(field.name, field.name, field.about, inputmode=mode)


def _text(name: str, label: str, about: str, **attributes: str | bool | None) -> Element:
    return h("label", label, h("input", name=name, **attributes), h("small", about))


def _choice(name: str, label: str, about: str, choices: Sequence[str]) -> Element:
    options = [
        h("option", "default", value=""),
        *(h("option", choice, value=choice) for choice in choices),
    ]
    return h("label", label, h("select", options, name=name), h("small", about))


def _path() -> Child:
    return h("a", f"{KIND}s", href=url(""))
