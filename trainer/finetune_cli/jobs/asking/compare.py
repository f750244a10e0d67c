"""``ftj compare``: the same prompts to several served models, with their answers side by side.

A model is asked through a pod that answers requests, and belongs to the build that the Service
selects. The pods of a candidate are not ready before it is verified, so no candidate is asked.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from finetune_api import KIND
from finetune_api.safety.printable import escaped
from finetune_api.v1alpha1.endpoints.names import BASE_SUFFIX
from finetune_cli import terminal
from finetune_cli.cluster import served
from finetune_cli.cluster.api import Cluster, NotFound
from finetune_cli.cluster.job import Job
from finetune_cli.errors import CommandFailed, WrongCall
from finetune_cli.jobs.asking import questions
from finetune_cli.options import Context, Format, Kubeconfig, Namespace, Output, job_names


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A served model, and how to ask it."""

    title: str
    name: str
    pod: dict[str, Any]
    key: str | None
    base: bool


def run(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="name of a FineTuneJob, its model at a revision as NAME@REV, or its base model as "
            f"NAME{BASE_SUFFIX} (with serving.mode: adapter or shared)",
            autocompletion=job_names,
        ),
    ],
    messages: Annotated[
        list[str] | None,
        typer.Option(
            "-m", "--message", metavar="TEXT", help="prompt, once or more; default: lines of stdin"
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="system prompt of each request")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="maximum number of tokens of an answer")
    ] = None,
    temperature: Annotated[
        float, typer.Option(metavar="T", min=0, help="temperature; 0 gives the same answers again")
    ] = 0.0,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> None:
    """Print the answers. Raises CommandFailed."""
    from finetune_cli.cluster import chat_api

    names = list(dict.fromkeys(targets))
    if len(names) < 2:
        raise WrongCall("name at least two models, such as two jobs, or a job and its base model")
    cluster = Cluster.of(kubeconfig, context, namespace)
    models = [_model(cluster, target) for target in names]
    results = []
    for prompt in _prompts(messages):
        answers = []
        for model in models:
            request: dict[str, Any] = {"model": model.name, "temperature": temperature}
            if max_tokens is not None:
                request["max_tokens"] = max_tokens
            head = [{"role": "system", "content": system}] if system else []
            request["messages"] = [*head, {"role": "user", "content": prompt}]
            try:
                answers.append("".join(chat_api.answer(cluster, model.pod, request, model.key)))
            except CommandFailed as error:
                hint = served.NO_BASE if model.base else ""
                raise CommandFailed(f"{model.title}: {error}{hint}") from None
        results.append({"prompt": prompt, "answers": answers})
        if output is Format.TEXT:
            _print(prompt, models, answers)
    if output is Format.JSON:
        titles = [model.title for model in models]
        terminal.document({"models": titles, "results": results})


def _model(cluster: Cluster, target: str) -> ServedModel:
    """Return a served model. Raises CommandFailed if it is not served, or not verified."""
    name, _, revision = target.partition("@")
    job, base = _job(cluster, name)
    place = served.place(cluster, job)
    pod = served.answering(place, job)
    serving = job.status.get("serving") or {}
    if revision and serving.get("revision") != revision:
        raise CommandFailed(
            f"revision {revision} of {KIND} {job.name} is not served: the endpoint serves revision "
            f"{serving.get('revision')}; return to the other one with ftj rollback {job.name} "
            f"{revision}, or serve it in a job of its own"
        )
    name = place.base if base else place.names[0]
    return ServedModel(title=target, name=name, pod=pod, key=questions.key(job, place), base=base)


def _job(cluster: Cluster, name: str) -> tuple[Job, bool]:
    """Return the job of a name, and whether the name is that of its base model."""
    try:
        return Job(object=cluster.job(name)), False
    except NotFound:
        if not name.endswith(BASE_SUFFIX):
            raise
    return Job(object=cluster.job(name.removesuffix(BASE_SUFFIX))), True


def _prompts(messages: Sequence[str] | None) -> list[str]:
    if messages is None and sys.stdin.isatty():
        raise WrongCall("set --message, or write prompts to stdin, one per line")
    lines = questions.of_stdin().splitlines() if messages is None else messages
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise WrongCall("set --message, or write prompts to stdin, one per line")
    return prompts


def _print(prompt: str, models: Sequence[ServedModel], answers: Sequence[str]) -> None:
    """Print answers in columns, or one below the other in a narrow terminal or a file."""
    terminal.line(terminal.text(prompt, terminal.TITLE))
    width = terminal.console().width
    texts = [Text(escaped(answer.strip(), keep="\n")) for answer in answers]
    if width < terminal.NARROW or width == terminal.UNWRAPPED:
        for model, text in zip(models, texts, strict=True):
            terminal.line(terminal.text(model.title, terminal.QUIET))
            terminal.show(Padding(text, (0, 0, 0, 2)))
    else:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
        for model in models:
            table.add_column(terminal.text(model.title), ratio=1, overflow="fold")
        table.add_row(*texts)
        terminal.show(table)
    print()
