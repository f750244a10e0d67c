"""What the verbs that ask a model share: the questions, and the key."""

import os
import sys

import typer

from finetune_api import KIND
from finetune_cli.cluster.job import Job
from finetune_cli.cluster.served import Place
from finetune_cli.errors import CommandFailed, WrongCall

KEY_VARIABLE = "FTJ_API_KEY"


def of_stdin() -> str:
    """Return the text of stdin. Raises WrongCall if it is none."""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise WrongCall("stdin is no text in UTF-8: convert it, or set the message") from None


def key(job: Job, place: Place) -> str | None:
    """Return the API key of the place of a job, None if it needs none. Raises CommandFailed."""
    given = os.environ.get(KEY_VARIABLE)
    if given or not place.needs_key:
        return given
    if not sys.stdin.isatty():
        raise CommandFailed(f"the endpoint of {KIND} {job.name} needs a key: set {KEY_VARIABLE}")
    asked: str = typer.prompt(f"API key of {job.name}", hide_input=True, err=True)
    return asked
