"""Prometheus metrics of the operator, with the names and labels of controller-runtime.

Dashboards and alerts for operators built with controller-runtime work unchanged. The metrics of the
API client are those of client-go (``component-base/metrics/prometheus/restclient``). Metrics about
the jobs are in ``job_metrics``.
"""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

# Otherwise each counter has a second series with its time of creation.
disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

_QUEUE = ("name", "controller")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_QUEUE_SECONDS = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 10, 100, 1000)

RECONCILE_TOTAL = Counter(
    "controller_runtime_reconcile",
    "Total number of reconciliations per controller and result.",
    ("controller", "result"),
    registry=REGISTRY,
)
RECONCILE_ERRORS = Counter(
    "controller_runtime_reconcile_errors",
    "Total number of reconciliation errors that are retried with backoff, per controller.",
    ("controller",),
    registry=REGISTRY,
)
RECONCILE_TERMINAL = Counter(
    "controller_runtime_terminal_reconcile_errors",
    "Total number of terminal reconciliation errors per controller.",
    ("controller",),
    registry=REGISTRY,
)
RECONCILE_TIMEOUTS = Counter(
    "controller_runtime_reconcile_timeouts",
    "Total number of reconciliation timeouts per controller.",
    ("controller",),
    registry=REGISTRY,
)
RECONCILE_SECONDS = Histogram(
    "controller_runtime_reconcile_time_seconds",
    "Duration of a reconciliation in seconds, per controller.",
    ("controller",),
    buckets=_SECONDS,
    registry=REGISTRY,
)
ACTIVE_WORKERS = Gauge(
    "controller_runtime_active_workers",
    "Number of currently used workers per controller.",
    ("controller",),
    registry=REGISTRY,
)
MAX_WORKERS = Gauge(
    "controller_runtime_max_concurrent_reconciles",
    "Maximum number of concurrent reconciles per controller.",
    ("controller",),
    registry=REGISTRY,
)

QUEUE_DEPTH = Gauge(
    "workqueue_depth", "Current number of keys in the work queue.", _QUEUE, registry=REGISTRY
)
QUEUE_ADDS = Counter(
    "workqueue_adds",
    "Total number of times that a key was added to the work queue.",
    _QUEUE,
    registry=REGISTRY,
)
QUEUE_RETRIES = Counter(
    "workqueue_retries",
    "Total number of times that a key was added to the work queue again after an error.",
    _QUEUE,
    registry=REGISTRY,
)
QUEUE_SECONDS = Histogram(
    "workqueue_queue_duration_seconds",
    "Time in seconds that a key waits in the work queue.",
    _QUEUE,
    buckets=_QUEUE_SECONDS,
    registry=REGISTRY,
)
WORK_SECONDS = Histogram(
    "workqueue_work_duration_seconds",
    "Time in seconds to process a key.",
    _QUEUE,
    buckets=_QUEUE_SECONDS,
    registry=REGISTRY,
)
UNFINISHED_SECONDS = Gauge(
    "workqueue_unfinished_work_seconds",
    "Time in seconds since the start of processing, summed over all keys in processing.",
    _QUEUE,
    registry=REGISTRY,
)
LONGEST_SECONDS = Gauge(
    "workqueue_longest_running_processor_seconds",
    "Time in seconds since the start of processing, for the key that has been in processing "
    "longest.",
    _QUEUE,
    registry=REGISTRY,
)

REQUESTS = Counter(
    "rest_client_requests",
    "Total number of HTTP requests to the API server, by status code, method and host. The code "
    "is '<error>' if the API server did not respond.",
    ("code", "method", "host"),
    registry=REGISTRY,
)
REQUEST_SECONDS = Histogram(
    "rest_client_request_duration_seconds",
    "Duration in seconds of HTTP requests to the API server, by verb and host.",
    ("verb", "host"),
    buckets=_SECONDS,
    registry=REGISTRY,
)

CACHE_OBJECTS = Gauge(
    "finetune_cache_objects",
    "Number of objects in the cache, by kind.",
    ("kind",),
    registry=REGISTRY,
)
CACHE_LISTS = Counter(
    "finetune_cache_lists",
    "Total number of times that all objects of a kind were listed to fill the cache.",
    ("kind",),
    registry=REGISTRY,
)
CACHE_CONFIRMATIONS = Counter(
    "finetune_cache_confirmations",
    "Total number of plans that needed confirmation by a live read from the API server, by cause.",
    ("cause",),
    registry=REGISTRY,
)

LEADER = Gauge(
    "leader_election_master_status",
    "1 if this replica is the leader and holds the Lease, 0 if it is a standby.",
    ("name",),
    registry=REGISTRY,
)

NOTIFICATIONS = Counter(
    "finetune_notifications",
    "Total number of notifications, by the result of sending them.",
    ("result",),
    registry=REGISTRY,
)
NOTIFICATIONS_PENDING = Gauge(
    "finetune_notifications_pending",
    "Number of notifications that the sink has not accepted yet.",
    registry=REGISTRY,
)
