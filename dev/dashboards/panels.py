"""What a dashboard consists of, and what the queries of several dashboards share.

The operator's metrics name the namespace of a job ``job_namespace``. Metrics of the job pods have
the labels of their target: ``namespace``, ``pod`` and ``finetune_dev_job``, the name of the job.
"""

from dataclasses import dataclass

JOB = 'namespace="$namespace",finetune_dev_job="$job"'
"""Selects the pods of the chosen job."""
NAMESPACE = 'job_namespace=~"$namespace"'
"""Selects the jobs of the chosen namespaces, in the operator's metrics."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """A query and the name of its series. instant: the value at the end of the time range only."""

    text: str
    legend: str = ""
    instant: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel. kind: ``timeseries``, ``stat`` or ``table``; unit: as Grafana names it."""

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"
    stacked: bool = False
    logarithmic: bool = False


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A choice at the top of a dashboard. several: more than one value can be chosen, or all."""

    name: str
    label: str
    query: str
    several: bool = False


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """A dashboard: titled rows of panels."""

    name: str
    title: str
    description: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]
    variables: tuple[Variable, ...] = ()
    since: str = "now-6h"


NAMESPACES = Variable(
    name="namespace",
    label="Namespace",
    query="label_values(finetune_jobs, job_namespace)",
    several=True,
)


def of_job(metric: str) -> tuple[Variable, ...]:
    """Return the choice of a job among those that have a metric."""
    return (
        Variable(name="namespace", label="Namespace", query=f"label_values({metric}, namespace)"),
        Variable(
            name="job",
            label="Job",
            query=f'label_values({metric}{{namespace="$namespace"}}, finetune_dev_job)',
        ),
    )


def quantile(part: float, histogram: str) -> str:
    """Return the query for a quantile of a histogram, which may have a selector. part: 0 to 1."""
    name, brace, selector = histogram.partition("{")
    rate = f"rate({name}_bucket{brace}{selector}[$__rate_interval])"
    return f"histogram_quantile({part}, sum by (le) ({rate}))"
