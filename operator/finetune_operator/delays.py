"""When a job is reconciled again and its pods are scraped: how long that waits, and why. Pure.

Every delay of the operator's schedule is here, in seconds. Timeouts of requests stay with the
client that makes them, and deadlines that users set stay in the spec.
"""

POLL = 15.0
"""Requeue interval while something changes without an event: progress, a pod that cannot start."""
SLOW_POLL = 60.0
"""The same once the state has lasted for ``SLOW_AFTER``: nobody watches a bar for hours."""
SLOW_AFTER = 300.0

SCRAPE = 13.0
"""Between two scrapes of a pod, less than ``POLL``, so that each poll finds a new value."""
SLOW_SCRAPE = 55.0
"""The same for a pod that has been scraped for ``SLOW_AFTER``."""
TOGETHER = 1.0
"""The pods that are due within this time are scraped together, and their jobs are reconciled
together: the same work takes less processor time while its code and data are in the caches."""
FIRST_VERIFICATION = 5.0
"""For so long a job waits for the first scrape for a verification result: users find the result as
soon as the job is Ready."""
STALE_METRICS = 150.0
"""A value that could not be replaced for so long is unknown."""

GATE = 3.0
"""Between two reports of the gate of an endpoint: jobs wait for the end of a verification."""
GATE_TICK = 0.5
"""Between two checks which gates are due."""

REQUESTS = 300.0
"""Between two updates of the time of the last request in the status."""
WAKE = 3600.0
"""The longest time between two reconciles of a job that will wake its endpoint at a later time."""

SETTLE = 0.1
"""Between an event of a child and the reconcile, which then covers related events too."""
SLOW_SETTLE = 5.0
"""The same for the kinds ``SLOW_KINDS``. A pod starts within this time, so one reconcile and one
write of the status cover that."""
SLOW_KINDS = frozenset({"Deployment", "Pod", "PersistentVolumeClaim"})
"""Kinds whose changes a job mostly reports: it usually continues when a Job or its own spec
changes, or after an urgent change (``snapshot.reflector.Notify``)."""
FOLLOW_UP = 0.1
"""Until the reconcile that follows a change of an object that existed: the job may continue."""
CREATED = 5.0
"""Until the reconcile that follows the creation of an object. By then, most pods have started, and
one write of the status reports Job and pod."""
REJECTED = 30.0
"""Until a write that the API server rejected is tried again: an administrator has to act first."""
PARENT = 30.0
"""Until a job looks again for the adapter that it waits for: another job trains for much longer."""
REPLACED = 60.0
"""Age of a ConfigMap from which the operator replaces it, if another client changed it."""
INTERVAL = 1.0
BURST = 20
"""A job is reconciled ``BURST`` times in succession, then once per ``INTERVAL``: an endless loop of
edits costs no more than that."""
RETRY_BASE = 0.005
RETRY_CAP = 60.0
"""The first and the longest delay of a reconcile that failed; it doubles with each failure."""
JITTER = 0.05
"""Share by which delays are varied, so that jobs which start together spread over time."""
FRESH_SHARE = 0.95
"""Share of the time until the next reconcile for which a job without events is not reconciled."""

BUDGET = 60.0
"""Between two reconciles of a budget, and of a job whose budget cannot be read. A budget is
reconciled earlier after a change of usage; the labels of namespaces are not watched."""
STATEMENT = 30.0
"""From a change of usage until its budgets are reconciled, if no job waits for them: the status of
a budget is read by people, and jobs are admitted by the usage itself."""
WAITING = 600.0
"""Between two reconciles of a job that waits for a budget. The budget wakes it when there is room,
but not if the room appeared while the job was just going to wait."""
SURROUNDINGS = 60.0
"""Between two lists of namespaces and PriorityClasses, while there are budgets."""

QUEUES = 60.0
"""Between two lists of the queues of Kueue, which administrators seldom change."""
PLACES = 60.0
"""Between two lists of the Workloads of a namespace in which a train Job waits; also the shortest
time between two changes of a position in a status."""
QUEUES_KNOWN = 300.0
"""For how long the last list counts after an error: then Kueue may have been removed."""
QUEUES_AGAIN = 5.0
"""The same if a job names a LocalQueue that was not in the last list: it may be new."""
QUEUE_MISSING = 30.0
"""Until a job looks again for the LocalQueue that it names."""

EVENTS_OF_PENDING = 10.0
"""Age of an object from which its events are read; most objects run earlier."""
EVENTS = 15.0
"""Between two reads of the events of a job."""

RESYNC = 300.0
"""Between two comparisons of the FineTuneJobs in the store with those that exist."""
RESYNC_GRACE = 5.0
"""For so long the watch may be behind the list of a resync."""
RESYNC_RETRY = 5.0
"""After a resync that failed."""

SETTLEMENT = 60.0
"""Between two settlements of the usage: each costs one write per namespace that uses GPUs."""
SETTLEMENT_RETRY = 5.0
"""After the records of usage could not be read."""


def after_event(kind: str, *, urgent: bool) -> float:
    """Return the delay of the reconcile that an event of a child causes."""
    return SLOW_SETTLE if kind in SLOW_KINDS and not urgent else SETTLE


def poll(lasts: float) -> float:
    """Return the requeue interval of a state. lasts: for how long it has lasted, in seconds."""
    return POLL if lasts < SLOW_AFTER else SLOW_POLL


def scrape(scraped_for: float) -> float:
    """Return the time until the next scrape. scraped_for: since the first one, in seconds."""
    return SCRAPE if scraped_for < SLOW_AFTER else SLOW_SCRAPE
