"""How two revisions of a job differ: their specs, the operator's configuration, their results."""

from dataclasses import dataclass
from typing import Any

from finetune_cli.cluster import revisions
from finetune_cli.cluster.api import Cluster
from finetune_cli.cluster.job import Job
from finetune_cli.ui.reading import rights
from finetune_cli.ui.reading.rights import Part

Pairs = dict[str, tuple[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two revisions, by the paths of their values."""

    first: str
    second: str
    spec: Part[Pairs]
    settings: Pairs
    results: Pairs


def read(cluster: Cluster, job: Job, first: str, second: str) -> Difference:
    """Return the difference. Raises CommandFailed if the job has no such revision."""
    records = [job.record(revision) for revision in (first, second)]
    results = [revisions.results(job, record) for record in records]

    def spec() -> Pairs:
        with rights.needs("get", "configmaps", job.namespace):
            texts = [
                revisions.document(cluster, job, str(record["revision"])) for record in records
            ]
        recipes = (revisions.recipe(*pair) for pair in zip(texts, records, strict=True))
        return revisions.differences(*recipes)

    return Difference(
        first=first,
        second=second,
        spec=rights.part(spec),
        settings=revisions.differences(*map(revisions.configuration, records)),
        results={
            name: (results[0].get(name), results[1].get(name))
            for name in dict.fromkeys([*results[0], *results[1]])
        },
    )
