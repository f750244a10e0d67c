"""Prometheus metrics of the operator, under the names and labels that controller-runtime uses.

Dashboards and alerts written for operators of that family work unchanged. Those of the API client
are client-go's (``component-base/metrics/prometheus/restclient``). What is counted of the jobs
themselves is in ``fleet``.
"""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

# A second series for each counter, of use to nobody who scrapes.
disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

CONTROLLER = "finetunejob"
_QUEUE = ("name", "controller")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_QUEUE_SECONDS = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 10, 100, 1000)

RECONCILE_TOTAL = Counter(
    "controller_runtime_reconcile",
    "Looks at a job, by how they ended.",
    ("controller", "result"),
    registry=REGISTRY,
)
RECONCILE_ERRORS = Counter(
    "controller_runtime_reconcile_errors",
    "Looks that failed and are repeated.",
    ("controller",),
    registry=REGISTRY,
)
RECONCILE_TERMINAL = Counter(
    "controller_runtime_terminal_reconcile_errors",
    "Looks whose writes were refused for good.",
    ("controller",),
    registry=REGISTRY,
)
RECONCILE_TIMEOUTS = Counter(
    "controller_runtime_reconcile_timeouts",
    "Looks that took too long and were cut off.",
    ("controller",),
    registry=REGISTRY,
)
RECONCILE_SECONDS = Histogram(
    "controller_runtime_reconcile_time_seconds",
    "Duration of a look.",
    ("controller",),
    buckets=_SECONDS,
    registry=REGISTRY,
)
ACTIVE_WORKERS = Gauge(
    "controller_runtime_active_workers",
    "Workers that are looking at a job.",
    ("controller",),
    registry=REGISTRY,
)
MAX_WORKERS = Gauge(
    "controller_runtime_max_concurrent_reconciles",
    "Workers.",
    ("controller",),
    registry=REGISTRY,
)

QUEUE_DEPTH = Gauge("workqueue_depth", "Keys that wait.", _QUEUE, registry=REGISTRY)
QUEUE_ADDS = Counter("workqueue_adds", "Keys that were queued.", _QUEUE, registry=REGISTRY)
QUEUE_RETRIES = Counter(
    "workqueue_retries", "Keys that were queued again.", _QUEUE, registry=REGISTRY
)
QUEUE_SECONDS = Histogram(
    "workqueue_queue_duration_seconds",
    "Time that a key waits.",
    _QUEUE,
    buckets=_QUEUE_SECONDS,
    registry=REGISTRY,
)
WORK_SECONDS = Histogram(
    "workqueue_work_duration_seconds",
    "Time that the work on a key takes.",
    _QUEUE,
    buckets=_QUEUE_SECONDS,
    registry=REGISTRY,
)
UNFINISHED_SECONDS = Gauge(
    "workqueue_unfinished_work_seconds",
    "Time spent so far on all keys in work.",
    _QUEUE,
    registry=REGISTRY,
)
LONGEST_SECONDS = Gauge(
    "workqueue_longest_running_processor_seconds",
    "Time spent so far on the key that is longest in work.",
    _QUEUE,
    registry=REGISTRY,
)

REQUESTS = Counter(
    "rest_client_requests",
    "Requests to the API server, by HTTP status ('<error>' without one), method and host.",
    ("code", "method", "host"),
    registry=REGISTRY,
)
REQUEST_SECONDS = Histogram(
    "rest_client_request_duration_seconds",
    "Duration of requests to the API server.",
    ("verb", "host"),
    buckets=_SECONDS,
    registry=REGISTRY,
)

LEADER = Gauge(
    "leader_election_master_status",
    "Whether this replica holds the lease of the name: 1, or 0 for one that stands by.",
    ("name",),
    registry=REGISTRY,
)
