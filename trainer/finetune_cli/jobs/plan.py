"""``ftj plan``: what manifests would change, before they are applied."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from finetune_api import KIND, PLURAL
from finetune_api.policy.readable_settings import NAME, NAMESPACE
from finetune_api.safety.printable import printable
from finetune_api.validation import is_job
from finetune_cli import terminal
from finetune_cli.errors import WrongCall
from finetune_cli.offline import job_file
from finetune_cli.offline.price_options import PriceOption
from finetune_cli.options import CLUSTER, Context, Kubeconfig, Namespace
from finetune_cli.planning import job_plan, report, state
from finetune_cli.planning.job_plan import Code, JobPlan
from finetune_cli.planning.state import State
from finetune_cli.planning.verdicts import Options
from finetune_trainer.errors import InvalidSpec

STYLES = {
    Code.HARMLESS: terminal.GOOD,
    Code.TRAINS: terminal.WAITING,
    Code.REJECTED: terminal.BAD,
    Code.INVALID: terminal.BAD,
}
GPU = "Estimate"
"""Panel of the help with the options about the GPU and the rows."""


class PlanFormat(StrEnum):
    """How a plan is printed."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"


def run(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", show_default=False, help="YAML file; - for stdin"),
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option(
            "-f", "--file", metavar="FILE", help="another way to write FILE; can be repeated"
        ),
    ] = None,
    state_file: Annotated[
        Path | None,
        typer.Option(
            "--state",
            metavar="FILE",
            help=f"YAML file with the present {KIND}s, profiles, budgets and settings, in place "
            "of a cluster",
        ),
    ] = None,
    former: Annotated[
        list[Path] | None,
        typer.Option(
            "--former",
            metavar="FILE",
            help="earlier version of the files; the plan lists the jobs that they have no more; "
            "can be repeated",
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="folder or config.json of the base model; default: read config.json from its "
            "source",
            rich_help_panel=GPU,
        ),
    ] = None,
    card: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="GPU model, such as NVIDIA-L4", rich_help_panel=GPU),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="number of training rows", rich_help_panel=GPU),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="number of tokens in all rows", rich_help_panel=GPU),
    ] = None,
    price: PriceOption = None,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="do not read config.json from its source"),
    ] = False,
    namespace: Namespace = None,
    operator_namespace: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"namespace of the ConfigMap {NAME}, which has the settings of the operator",
            rich_help_panel=CLUSTER,
        ),
    ] = NAMESPACE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Annotated[
        PlanFormat,
        typer.Option(
            "-o", "--output", help="print text, one JSON document, or a comment in Markdown"
        ),
    ] = PlanFormat.TEXT,
) -> int:
    """Print the plan. Raises InvalidSpec without any job, CommandFailed."""
    given = [*(files or ()), *(file or ())]
    if not given and not former:
        raise WrongCall("set at least one FILE, a YAML file with FineTuneJobs (- for stdin)")
    options = Options(
        model=model, card=card, rows=rows, tokens=tokens, price=price, offline=offline
    )
    documents = [(path, document) for path in given for document in _documents(path)]
    manifests = [(str(path), document) for path, document in documents if is_job(document)]
    earlier = [(str(path), document) for path in former or () for document in _documents(path)]
    removed = [(path, document) for path, document in earlier if is_job(document)]
    profiles = tuple(document for _, document in documents if state.is_profile(document))
    removed_profiles = frozenset(
        state.name_of(document) for _, document in earlier if state.is_profile(document)
    ) - frozenset(map(state.name_of, profiles))
    if not (manifests or removed or profiles or removed_profiles):
        named = ", ".join(map(str, [*given, *(former or ())]))
        raise InvalidSpec(f"{named} contains no {KIND}: name files that contain one")
    if state_file is not None:
        present = state.of_documents(
            _documents(state_file), source=f"the state in {state_file.name}"
        )
        default = namespace or "default"
    else:
        where = (kubeconfig, context, namespace)
        named_jobs = [document for _, document in (*manifests, *removed)]
        every = bool(profiles or removed_profiles)
        present, default = _of_cluster(*where, operator_namespace, named_jobs, every=every)
    present = replace(present, changed=profiles, removed=removed_profiles)
    plans = [
        job_plan.plan(document, path, default, present, options) for path, document in manifests
    ]
    planned = {(plan.namespace, plan.name) for plan in plans}
    for path, document in removed:
        plan = job_plan.plan_removed(document, path, default, present)
        if (plan.namespace, plan.name) not in planned:
            plans.append(plan)
            planned.add((plan.namespace, plan.name))
    for live in present.jobs_of_changed_profiles():
        plan = job_plan.plan(dict(live), present.source, default, present, options)
        if (plan.namespace, plan.name) not in planned:
            removes = bool({state.spec_of(live).get("profile")} & {*removed_profiles, None})
            caveat = (report.PROFILE_REMOVAL,) if removed_profiles and removes else ()
            plans.append(replace(plan, indirect=True, warnings=(*plan.warnings, *caveat)))
    _print(plans, present.source, output)
    return int(report.highest(plans))


def _documents(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file, also those in lists. Raises InvalidSpec."""
    return [*job_file.flat(job_file.load(path, job_file.StrictLoader))]


def _of_cluster(
    kubeconfig: Path | None,
    context: str | None,
    namespace: str | None,
    operator: str,
    manifests: Iterable[state.Object],
    *,
    every: bool,
) -> tuple[State, str]:
    """Return what a cluster knows of some jobs, and the namespace of the user.

    every: whether all jobs are read that the user may list. Raises CommandFailed.
    """
    from finetune_cli.cluster import api, plan_inputs
    from finetune_cli.cluster.api import Cluster, Forbidden

    cluster = Cluster.of(kubeconfig, context, namespace)

    def all_jobs() -> tuple[state.Object, ...]:
        try:
            return tuple(cluster.items(api.path(PLURAL, api=api.JOBS)))
        except Forbidden:
            print(
                f"warning: you may not list the {KIND}s of all namespaces, so the plan has those "
                f"of namespace {printable(cluster.namespace)} alone",
                file=sys.stderr,
            )
        return tuple(cluster.items(api.path(PLURAL, cluster.namespace, api=api.JOBS)))

    places = [_place(manifest, cluster.namespace) for manifest in manifests]
    inputs = plan_inputs.read(cluster, operator, places)
    present = State(
        source=f"the cluster of context {cluster.context}",
        jobs=(*inputs.jobs, *(all_jobs() if every else ())),
        profiles=inputs.profiles,
        budgets=inputs.budgets,
        settings=None if inputs.settings is None else state.settings_of(inputs.settings),
    )
    return present, cluster.namespace


def _place(manifest: state.Object, namespace: str) -> tuple[str, str]:
    metadata = manifest.get("metadata")
    named = metadata if isinstance(metadata, dict) else {}
    return str(named.get("namespace") or namespace), str(named.get("name"))


def _print(plans: list[JobPlan], source: str, output: PlanFormat) -> None:
    if output is PlanFormat.JSON:
        terminal.document(report.document(plans, source))
        return
    if output is PlanFormat.MARKDOWN:
        print(report.markdown(plans, source))
        return
    for plan in plans:
        if plan.silent:
            continue
        terminal.line(terminal.text(report.headline(plan), STYLES[plan.code]))
        if rows := [*report.rows(plan)]:
            print()
            terminal.table(("FIELD", "BEFORE", "AFTER", "EFFECT"), rows)
            print()
        terminal.pairs(_unique(report.facts(plan)))
        print()
    terminal.line(f"{report.summary(plans)}. Compared with {source}.")


def _unique(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield pairs, whose name is left out where it is that of the pair before."""
    last = ""
    for name, text in pairs:
        yield ("" if name == last else name), text
        last = name
