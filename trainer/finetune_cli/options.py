"""Options that several verbs share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from finetune_cli.errors import CommandFailed, WrongCall

CLUSTER = "Cluster"
"""Panel of the help with the options that select a cluster."""


class Format(StrEnum):
    """How a verb prints its result: for people, or as one JSON document."""

    TEXT = "text"
    JSON = "json"


Output = Annotated[
    Format, typer.Option("-o", "--output", help="print text for people, or one JSON document")
]
Manifest = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help="YAML file with one FineTuneJob; - for stdin"),
]
ManifestOption = Annotated[
    Path | None,
    typer.Option("-f", "--file", metavar="FILE", help="another way to write the argument FILE"),
]


def job_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of jobs that begin with a text, for the completion in a shell."""
    from finetune_cli.cluster.api import Cluster

    given = (ctx.params.get(name) for name in ("kubeconfig", "context", "namespace"))
    try:
        names = [job["metadata"]["name"] for job in Cluster.of(*given).jobs()]
    except CommandFailed:
        return []
    return [name for name in names if name.startswith(incomplete)]


JobName = Annotated[
    str,
    typer.Argument(metavar="NAME", help="name of the FineTuneJob", autocompletion=job_names),
]
JobNames = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME",
        help="names of FineTuneJobs; default: all jobs of the namespace",
        autocompletion=job_names,
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "-n",
        "--namespace",
        metavar="NAME",
        help="namespace of the FineTuneJob; default: the namespace of the context",
        rich_help_panel=CLUSTER,
    ),
]
Context = Annotated[
    str | None,
    typer.Option(
        "--context",
        metavar="NAME",
        help="context of the kubeconfig; default: its current context",
        rich_help_panel=CLUSTER,
    ),
]
Kubeconfig = Annotated[
    Path | None,
    typer.Option(
        "--kubeconfig",
        metavar="FILE",
        help="path of the kubeconfig; default: $KUBECONFIG, or ~/.kube/config",
        rich_help_panel=CLUSTER,
    ),
]


def file(argument: Path | None, option: Path | None) -> Path:
    """Return the file of a verb that takes it as an argument or with ``-f``. Raises WrongCall."""
    if argument is not None and option is not None:
        raise WrongCall("set FILE once: as an argument, or with -f")
    given = argument or option
    if given is None:
        raise WrongCall("set FILE, the YAML file with the FineTuneJob (- for stdin)")
    return given
