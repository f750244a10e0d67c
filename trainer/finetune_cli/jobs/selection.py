"""The jobs that a verb with several names is about."""

from collections.abc import Iterable

from finetune_cli.cluster.api import Cluster
from finetune_cli.cluster.job import Job


def jobs(cluster: Cluster, names: Iterable[str] | None) -> list[Job]:
    """Return the jobs of some names, by default those of the namespace. Raises CommandFailed."""
    if names:
        return [Job(object=cluster.job(name)) for name in dict.fromkeys(names)]
    return [Job(object=object_) for object_ in cluster.jobs()]
