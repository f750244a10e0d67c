"""kopf's event handlers and settings. The handlers notify the controller, and do nothing else.

kopf provides watch streams that reconnect. Nothing is stored in objects: with ``on.event`` handlers
only, kopf adds neither finalizers nor annotations. An event of a child notifies the job in its
label. An event carries no state: it says which job to reconcile and which kind to read again.

Why kopf, and which parts of it: docs/development/adr-kopf.md.
"""

import itertools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import kopf

# Private: the only way to keep kopf from storing a record of every object.
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory

import finetune_api
from finetune_operator.kube import auth
from finetune_operator.kube.client import PAGE
from finetune_operator.kube.kinds import FINETUNEJOB, KINDS
from finetune_operator.objects.digest import job_version, object_version
from finetune_operator.objects.naming import JOB
from finetune_operator.snapshot.cache import WATCHED_CHILDREN
from finetune_operator.types import Key

WATCH_TIMEOUT_SECONDS = 70.0
"""Time without any event after which a watch is restarted; bookmarks arrive every 60 s."""

Notify = Callable[[Key, str, int | None], None]
"""Takes the key of a job, and kind and version (``SnapshotCache.invalidate``) of an object.

The version is None for a deleted object and for an object of an initial list: objects that were
deleted before the list are not reported otherwise.
"""


def registry(notify: Notify) -> kopf.OperatorRegistry:
    """Return the handlers."""
    handlers = kopf.OperatorRegistry()
    kopf.on.login(registry=handlers, retries=1)(auth.kopf_login)
    for kind in (FINETUNEJOB, *WATCHED_CHILDREN):
        labels = None if kind == FINETUNEJOB else {JOB: kopf.PRESENT}
        kopf.on.event(
            *KINDS[kind].resource, labels=labels, registry=handlers, id=KINDS[kind].plural
        )(_handler(kind, notify))
    return handlers


def _handler(kind: str, notify: Notify) -> Callable[..., Awaitable[None]]:
    is_job = kind == FINETUNEJOB
    version_of = job_version if is_job else object_version

    async def handle(
        *, type: str | None, body: Any, name: str, namespace: str, labels: Any, **_: Any
    ) -> None:
        version = version_of(body) if type in ("ADDED", "MODIFIED") else None
        notify((namespace, name if is_job else labels[JOB]), kind, version)

    return handle


class NoDiffBase(kopf.DiffBaseStorage):
    """Stores no previous state of objects: no handler asks for a diff.

    kopf's own storages copy each object several times to compute one.
    """

    def build(self, **_: Any) -> Any:
        """Return an empty state."""
        return {}

    def fetch(self, **_: Any) -> None:
        """Return no state."""
        return

    def store(self, **_: Any) -> None:
        """Store nothing."""
        return


class NoMemory(ResourceMemories):
    """Stores no record of objects, which kopf needs for its change handlers and daemons.

    A record takes 0.9 kB for every watched object, including finished pods.
    """

    async def recall(self, raw_body: Any, **options: Any) -> ResourceMemory:
        """Return a new record, as for an object without one."""
        return await super().recall(raw_body, **{**options, "ephemeral": True})


class EndlessBackoff:
    """Delays between the attempts of one request in seconds: up to 8 s, without an end."""

    def __iter__(self) -> Iterator[float]:
        """Return the delays of one request."""
        return itertools.chain((0.5, 1.0, 2.0, 4.0), itertools.repeat(8.0))


def settings() -> kopf.OperatorSettings:
    """Return kopf's settings: watches only."""
    target = kopf.OperatorSettings()
    target.posting.enabled = False
    target.scanning.disabled = True
    target.peering.standalone = True
    target.persistence.diffbase_storage = NoDiffBase()
    target.persistence.finalizer = f"{finetune_api.GROUP}/unused"
    target.watching.server_timeout = 600
    target.watching.connect_timeout = 10
    target.watching.inactivity_timeout = WATCH_TIMEOUT_SECONDS
    target.watching.chunk_size = PAGE
    target.networking.request_timeout = 30
    target.networking.connect_timeout = 5
    target.networking.error_backoffs = EndlessBackoff()
    # The worker of an object holds its last event until then.
    target.queueing.idle_timeout = 0.1
    target.queueing.exit_timeout = 0.5
    # If kopf hangs at its end, it kills the process: a restart is better than no watches.
    target.process.ultimate_exiting_timeout = 20
    for kind in WATCHED_CHILDREN:
        group, _, plural = KINDS[kind].resource
        # kopf matches only this form: 'batch/jobs' is accepted silently and selects nothing.
        target.watching.label_selectors[f"{plural}.{group}" if group else plural] = JOB
    return target
