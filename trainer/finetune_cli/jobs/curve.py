"""``ftj curve``: the losses of a training, while it runs and afterwards; or of two revisions."""

import csv
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.text import Text

from finetune_api import KIND
from finetune_api.safety.printable import printable
from finetune_api.v1alpha1.status.loss_history import Name
from finetune_cli import terminal
from finetune_cli.cluster import history
from finetune_cli.cluster.api import Cluster
from finetune_cli.cluster.history import History
from finetune_cli.cluster.job import Job
from finetune_cli.errors import CommandFailed, WrongCall
from finetune_cli.options import Context, Format, JobName, Kubeconfig, Namespace, Output
from finetune_cli.plotting import png as png_file
from finetune_cli.plotting import svg as svg_file
from finetune_cli.plotting import text
from finetune_cli.plotting.curves import Curve

POLL_SECONDS = 5.0
WIDTH, HEIGHT = 80, 16
"""Of the plot where the output is no terminal, and its number of rows."""
LOSSES: dict[Name, str] = {"loss": "training loss", "evalLoss": "held-out loss"}


def run(
    name: JobName,
    revision: Annotated[
        str | None,
        typer.Argument(metavar="REV", help="revision; default: the one of the present spec"),
    ] = None,
    other: Annotated[
        str | None, typer.Argument(metavar="REV", help="revision that REV is compared with")
    ] = None,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="update the plot until the training ends")
    ] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="print a line per step, with learning rate and speed")
    ] = False,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="write the plot to an SVG file")
    ] = None,
    png: Annotated[
        Path | None, typer.Option("--png", metavar="FILE", help="write the plot to a PNG file")
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> None:
    """Print the plot, or the points. Raises CommandFailed."""
    if as_csv and output is Format.JSON:
        raise WrongCall("--csv and -o json exclude each other: set one of them")
    cluster = Cluster.of(kubeconfig, context, namespace)
    histories: Sequence[History] = ()
    states = _states(cluster, name, [given for given in (revision, other) if given], follow=follow)
    if output is Format.TEXT and follow and not as_csv and sys.stdout.isatty():
        made = terminal.console()
        with Live(console=made, auto_refresh=False, transient=True) as live:
            for histories in states:
                live.update(Text("\n".join(_lines(histories))), refresh=True)
    else:
        (histories,) = deque(states, maxlen=1)
    title = f"{KIND} {name}"
    if svg is not None:
        _write(svg, "--svg", svg_file.draw(_curves(histories), title=title).encode())
    if png is not None:
        _write(png, "--png", png_file.draw(_curves(histories), title=title))
    if output is Format.JSON:
        documents = [
            {"revision": training.revision, "live": training.live, "series": training.series}
            for training in histories
        ]
        terminal.document({"name": name, "namespace": cluster.namespace, "revisions": documents})
    elif as_csv:
        _print_csv(histories)
    else:
        terminal.show(Text("\n".join(_lines(histories))))


def _states(
    cluster: Cluster, name: str, revisions: Sequence[str], *, follow: bool
) -> Iterator[Sequence[History]]:
    """Yield the histories, and again while a training runs that is followed."""
    while True:
        job = Job(object=cluster.job(name))
        present = job.revision or {"revision": job.status.get("revision")}
        records = [job.record(revision) for revision in revisions] or [present]
        histories = [history.of(cluster, job, record) for record in records]
        live = any(training.live for training in histories)
        if not (follow and live):
            _require_points(job, histories)
        yield histories
        if not (follow and live):
            return
        time.sleep(POLL_SECONDS)


def _require_points(job: Job, histories: Sequence[History]) -> None:
    for training in histories:
        if any(training.series.get(name) for name in LOSSES):
            continue
        if training.live:
            raise CommandFailed(
                f"the training of {KIND} {job.name} has not logged a step yet: add --follow, or "
                f"read its state with ftj status {job.name}"
            )
        if training.paused:
            raise CommandFailed(
                f"the training of revision {training.revision} has not ended, but no pod of it "
                f"runs now, and only its pod has the losses until it ends: see ftj why {job.name}"
            )
        raise CommandFailed(
            f"the ledger of {KIND} {job.name} has no loss history of revision {training.revision}: "
            "it has not been trained, or by an image of a version without the history; the plot in "
            "loss.png is among the files of its adapter (ftj copy)"
            if job.revisions
            else f"{KIND} {job.name} has not started a revision yet: read its state with ftj status"
        )


def _curves(histories: Sequence[History]) -> list[Curve]:
    """Return the training losses, then the held-out losses."""
    several = len(histories) > 1
    return [
        Curve(
            name=(f"{printable(training.revision)} " if several else "") + words,
            points=training.series.get(name, ()),
            measured=name == "evalLoss",
        )
        for name, words in LOSSES.items()
        for training in histories
    ]


def _lines(histories: Sequence[History]) -> list[str]:
    width = terminal.console().width
    plotted = text.plot(
        _curves(histories),
        width=WIDTH if width == terminal.UNWRAPPED else width,
        height=HEIGHT,
        braille=_has_braille(),
    )
    return plotted or ["The training has not logged a step yet."]


def _has_braille() -> bool:
    try:
        chr(text.BRAILLE).encode(sys.stdout.encoding or "utf-8")
    except (UnicodeError, LookupError):
        return False
    return True


def _print_csv(histories: Sequence[History]) -> None:
    csv.writer(sys.stdout, lineterminator="\n").writerows(history.rows(histories))


def _write(path: Path, option: str, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise CommandFailed(
            f"{path} cannot be written ({error.strerror or error}): set {option} to another path"
        ) from None
