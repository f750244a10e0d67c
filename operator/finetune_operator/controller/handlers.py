"""What wakes the operator: kopf's watches, whose handlers put keys on the queue, no more.

kopf supplies watch streams that reconnect. It stores nothing: there are only ``on.event`` handlers,
so no object gets a finalizer or an annotation. An event of a child wakes the
job that its label names. An event of a job in which nothing but its status changed is our own echo
and wakes nobody.

Events may be lost; they are never trusted to say what there is, only that it is time to look.
"""

import hashlib
import itertools
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import kopf
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory

from finetune_operator.kube import auth
from finetune_operator.objects.naming import JOB
from finetune_operator.snapshot.cache import FINETUNEJOB, version_of
from finetune_operator.types import Key, Object

API_GROUP, API_VERSION, PLURAL = "finetune.dev", "v1alpha1", "finetunejobs"
CHILDREN = {
    "Pod": ("", "v1", "pods"),
    "PersistentVolumeClaim": ("", "v1", "persistentvolumeclaims"),
    "Job": ("batch", "v1", "jobs"),
    "Deployment": ("apps", "v1", "deployments"),
}

SILENT_SECONDS = 70.0
"""How long a watch may be silent. The API server sends a bookmark every 60 s."""

Tell = Callable[[Key, str, int | None], None]
"""Takes a job's key, and kind and version (``views``) of what an event is about.

There is no version of what is gone, and none of what was listed: others may be gone then of which
no event tells.
"""


class Echoes:
    """Tells news of a job from echoes of our own status writes."""

    def __init__(self) -> None:
        self._known: dict[str, bytes] = {}

    def is_news(self, event: str | None, body: Object) -> bool:
        """Tell whether an event is worth a look.

        event: ADDED, MODIFIED, DELETED, or None for an object of an initial list, which is always
        news: something may have been lost before it.
        """
        uid = body["metadata"]["uid"]
        if event == "DELETED":
            self._known.pop(uid, None)
            return True
        print_ = _fingerprint(body)
        known, self._known[uid] = self._known.get(uid), print_
        return event != "MODIFIED" or known != print_


def _fingerprint(body: Object) -> bytes:
    """Return a digest of all of an object but its status and the server's bookkeeping."""
    parts = {key: value for key, value in body.items() if key != "status"}
    parts["metadata"] = {
        key: value
        for key, value in body["metadata"].items()
        if key not in ("managedFields", "resourceVersion")
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).digest()


class _NoEssence(kopf.DiffBaseStorage):
    """What kopf would compare of an object between two events: nothing.

    Its own storages copy each object several times over to find that out, and no handler asks.
    """

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


class Forgetful(ResourceMemories):
    """What kopf remembers of each object for its handlers and daemons: nothing.

    It would be 0.9 kB of every object there is, of a finished pod too.
    """

    async def recall(self, raw_body: Any, **options: Any) -> ResourceMemory:
        """Return a new memory, as of an object that was never seen."""
        return await super().recall(raw_body, **{**options, "ephemeral": True})


def registry(tell: Tell) -> kopf.OperatorRegistry:
    """Return the handlers."""
    handlers = kopf.OperatorRegistry()
    echoes = Echoes()
    kopf.on.login(registry=handlers, retries=1)(auth.for_kopf)

    @kopf.on.event(API_GROUP, API_VERSION, PLURAL, registry=handlers)
    async def job_seen(*, type: str | None, body: Any, name: str, **kwargs: Any) -> None:
        if echoes.is_news(type, body):
            tell((kwargs["namespace"], name), FINETUNEJOB, None)

    def child_seen(kind: str) -> Callable[..., Awaitable[None]]:
        async def snapshot(*, type: str | None, body: Any, labels: Any, **kwargs: Any) -> None:
            version = version_of(body) if type in ("ADDED", "MODIFIED") else None
            tell((kwargs["namespace"], labels[JOB]), kind, version)

        return snapshot

    for kind, (group, version, plural) in CHILDREN.items():
        kopf.on.event(
            group,
            version,
            plural,
            labels={JOB: kopf.PRESENT},
            registry=handlers,
            id=f"{plural}_seen",
        )(child_seen(kind))
    return handlers


class Patience:
    """The delays between the attempts of one request, in seconds: they grow, and never end."""

    def __iter__(self) -> Iterator[float]:
        """Yield the delays of one more request."""
        return itertools.chain((0.5, 1.0, 2.0, 4.0), itertools.repeat(8.0))


def settings() -> kopf.OperatorSettings:
    """Return kopf's settings: it watches, and does nothing else."""
    target = kopf.OperatorSettings()
    target.posting.enabled = False
    target.scanning.disabled = True
    target.peering.standalone = True
    target.persistence.diffbase_storage = _NoEssence()
    target.persistence.finalizer = f"{API_GROUP}/unused"
    target.watching.server_timeout = 600
    target.watching.connect_timeout = 10
    target.watching.inactivity_timeout = SILENT_SECONDS
    target.watching.chunk_size = 500
    target.networking.request_timeout = 30
    target.networking.connect_timeout = 5
    target.networking.error_backoffs = Patience()
    target.queueing.idle_timeout = 1.0
    target.queueing.exit_timeout = 0.5
    # Where kopf's own end hangs, it kills the process: better a new one than one without watches.
    target.process.ultimate_exiting_timeout = 20
    for group, _, plural in CHILDREN.values():
        # The only form that kopf matches: 'batch/jobs' is taken without a word and selects nothing.
        target.watching.label_selectors[f"{plural}.{group}" if group else plural] = JOB
    return target
