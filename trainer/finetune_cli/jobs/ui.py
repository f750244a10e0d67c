"""``ftj ui``: pages about the jobs of a cluster, in a browser on this machine."""

import sys
from typing import Annotated

import typer

from finetune_cli import terminal
from finetune_cli.cluster.api import Cluster
from finetune_cli.options import Context, Format, Kubeconfig, Namespace, Output


def run(
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="port; default: a free one")
    ] = 0,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> None:
    """Serve the pages until Ctrl-C. Raises CommandFailed."""
    from finetune_cli.ui import serve

    cluster = Cluster.of(kubeconfig, context, namespace)
    serve.run(cluster, port, lambda address, code: _announce(address, code, output))


def _announce(address: str, code: str, output: Format) -> None:
    if output is Format.JSON:
        terminal.document({"address": address, "code": code})
    else:
        terminal.pairs((("Address", address), ("Code", code)))
        terminal.line("The code is valid for one login. To end the page, press Ctrl-C.")
    sys.stdout.flush()
