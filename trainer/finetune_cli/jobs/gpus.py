"""``ftj gpus``: the pods that use GPUs or wait for them, with their jobs."""

from finetune_api.durations import duration
from finetune_cli import terminal
from finetune_cli.cluster import gpus
from finetune_cli.cluster.api import Cluster
from finetune_cli.cluster.gpus import Holder
from finetune_cli.options import Context, Format, Kubeconfig, Namespace, Output

NOT_WHOLE = (
    "Only the pods of namespace {} are listed, because you may not list the pods of all namespaces."
)


def run(
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> None:
    """Print the pods. Raises CommandFailed."""
    cluster = Cluster.of(kubeconfig, context, namespace)
    seen = gpus.seen(cluster)
    if output is Format.JSON:
        pods = [holder.document() for holder in seen.holders]
        terminal.document({"allNamespaces": seen.whole, "pods": pods})
        return
    using = [holder for holder in seen.holders if holder.node is not None]
    waiting = [holder for holder in seen.holders if holder.node is None]
    if using:
        terminal.table(("NODE", "GPUS", "USED BY", "POD", "FOR"), map(_row, using), indent=0)
    else:
        terminal.line("No pod uses a GPU.")
    if waiting:
        terminal.title("Waiting")
        rows = ((holder.gpus, holder.owner, holder.pod, _time(holder)) for holder in waiting)
        terminal.table(("GPUS", "WANTED BY", "POD", "FOR"), rows, indent=0)
    if not seen.whole:
        terminal.line(NOT_WHOLE.format(cluster.namespace), style=terminal.QUIET)


def _row(holder: Holder) -> tuple[object, ...]:
    return holder.node, holder.gpus, holder.owner, holder.pod, _time(holder)


def _time(holder: Holder) -> str:
    return duration(holder.seconds)
