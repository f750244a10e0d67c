"""kopf's event handler and settings. The handler passes each FineTuneJob on, and does nothing else.

kopf provides a watch that reconnects. Nothing is stored in objects: with an ``on.event`` handler
only, kopf adds neither finalizers nor annotations. The objects that a job owns are watched by
``snapshot.reflector``.

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
from finetune_operator.kube.kinds import FINETUNEJOB, KINDS
from finetune_operator.kube.page_size import KOPF_PAGE
from finetune_operator.types import Object

WATCH_TIMEOUT_SECONDS = 70.0
"""Time without any event after which a watch is restarted; bookmarks arrive every 60 s."""

Deliver = Callable[[str | None, Object], None]
"""Takes the type of an event, None for an object of a list, and the FineTuneJob."""


def registry(deliver: Deliver) -> kopf.OperatorRegistry:
    """Return the handlers."""
    handlers = kopf.OperatorRegistry()
    kopf.on.login(registry=handlers, retries=1)(auth.kopf_login)
    kind = KINDS[FINETUNEJOB]
    kopf.on.event(*kind.resource, registry=handlers, id=kind.plural)(_handler(deliver))
    return handlers


def _handler(deliver: Deliver) -> Callable[..., Awaitable[None]]:
    async def handle(*, event: Any, **_: Any) -> None:
        # kopf holds the event a little longer, and may receive the next page meanwhile.
        for unused in ("managedFields", "annotations"):
            event["object"]["metadata"].pop(unused, None)
        kind = {"apiVersion": finetune_api.API_VERSION, "kind": FINETUNEJOB}
        deliver(event["type"], {**event["object"], **kind})

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
    target.watching.chunk_size = KOPF_PAGE
    target.networking.request_timeout = 30
    target.networking.connect_timeout = 5
    target.networking.error_backoffs = EndlessBackoff()
    # The worker of an object holds its last event until then.
    target.queueing.idle_timeout = 0.1
    target.queueing.exit_timeout = 0.5
    # If kopf hangs at its end, it kills the process: a restart is better than no watches.
    target.process.ultimate_exiting_timeout = 20
    return target
