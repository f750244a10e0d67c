"""``ftj chat``: asks the served model of a job; the answer is printed as it arrives."""

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from finetune_cli import terminal
from finetune_cli.cluster import served
from finetune_cli.cluster.api import Cluster
from finetune_cli.cluster.job import Job
from finetune_cli.errors import WrongCall
from finetune_cli.jobs.asking import questions
from finetune_cli.options import Context, Format, JobName, Kubeconfig, Namespace, Output

PROMPT = "> "


def run(
    name: JobName,
    message: Annotated[
        str | None,
        typer.Argument(
            metavar="MESSAGE",
            help="one question; default: a conversation on a terminal, otherwise the text of stdin",
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="system prompt of the conversation")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="maximum number of tokens of an answer")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(metavar="T", min=0, help="temperature; 0 for the same answers")
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> None:
    """Print the answers. Raises CommandFailed."""
    from finetune_cli.cluster import chat_api

    cluster = Cluster.of(kubeconfig, context, namespace)
    job = Job(object=cluster.job(name))
    place = served.place(cluster, job)
    pod = served.answering(place, job)
    model, key = place.names[0], questions.key(job, place)
    messages = [{"role": "system", "content": system}] if system else []
    sampling = {"max_tokens": max_tokens, "temperature": temperature}
    request = {
        "model": model,
        **{name: value for name, value in sampling.items() if value is not None},
    }
    for question in _questions(message, output):
        messages.append({"role": "user", "content": question})
        parts = chat_api.answer(cluster, pod, {**request, "messages": messages}, key)
        said = "".join(_printed(parts) if output is Format.TEXT else parts)
        messages.append({"role": "assistant", "content": said})
    if output is Format.JSON:
        terminal.document({"model": model, "messages": messages})


def _questions(message: str | None, output: Format) -> Iterator[str]:
    """Yield the questions of the user, until the end of the input."""
    if message is not None or not sys.stdin.isatty():
        text = questions.of_stdin() if message is None else message
        if not text.strip():
            raise WrongCall("set MESSAGE, or write it to stdin")
        yield text
        return
    if output is Format.JSON:
        raise WrongCall("set MESSAGE: a conversation has no JSON output")
    while True:
        try:
            question = input(PROMPT)
        except EOFError:
            print()
            return
        if question.strip():
            yield question


def _printed(parts: Iterator[str]) -> Iterator[str]:
    """Print parts as they arrive. The stream escapes control characters, except these."""
    for part in parts:
        print(part.replace("\r", ""), end="", flush=True)
        yield part
    print(flush=True)
