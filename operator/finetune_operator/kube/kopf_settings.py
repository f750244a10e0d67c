"""The settings that restrict kopf to the watch of our own kinds of objects.

Nothing is stored in objects: with ``on.event`` handlers only, kopf adds neither finalizers nor
annotations.
"""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import kopf

from finetune_operator.kube.page_size import KOPF_PAGE

WATCH_TIMEOUT_SECONDS = 70.0
"""Time without any event after which a watch is restarted; bookmarks arrive every 60 s."""


class NoDiffBase(kopf.DiffBaseStorage):
    """Stores no previous state of objects: no handler asks for a diff.

    kopf's own storages copy each object several times to compute one, and parse an annotation that
    every author of a job may write.
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


class EndlessBackoff:
    """Delays between the attempts of one request in seconds: up to 8 s, without an end."""

    def __iter__(self) -> Iterator[float]:
        """Return the delays of one request."""
        return itertools.chain((0.5, 1.0, 2.0, 4.0), itertools.repeat(8.0))


def configure(settings: kopf.OperatorSettings) -> None:
    """Change the settings of kopf, which uses them for all that follows the startup handler."""
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.persistence.diffbase_storage = NoDiffBase()
    # kopf removes this finalizer wherever it finds it. No object can have one with a space.
    settings.persistence.finalizer = "no finalizer"
    settings.watching.server_timeout = 600
    settings.watching.connect_timeout = 10
    settings.watching.inactivity_timeout = WATCH_TIMEOUT_SECONDS
    settings.watching.chunk_size = KOPF_PAGE
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.networking.error_backoffs = EndlessBackoff()
    # The worker of an object holds its last event until then.
    settings.queueing.idle_timeout = 0.1
    settings.queueing.exit_timeout = 0.5
    # If kopf hangs at its end, it kills the process: a restart is better than no watches. The end
    # needs at most 5 s, most of them to release the Lease; the kubelet kills the pod after 10 s.
    settings.process.ultimate_exiting_timeout = 8


def cancel_watches() -> None:
    """Cancel the watches of kopf that are still open.

    If the watch of one kind fails, kopf 1.45 leaves those of the others open and closes their
    session. They would then wait for new credentials, which nobody loads any more, until kopf kills
    the process.
    """
    for task in asyncio.all_tasks():
        if task.get_name().startswith("watcher for "):
            task.cancel()
