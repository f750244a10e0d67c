"""The labels of namespaces and the PriorityClasses, which decide about budgets.

They are few and seldom change, so they are listed periodically, and when a job is in a namespace
that is not known yet. Without budgets, nothing is listed.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from finetune_operator import delays
from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import OperatorError
from finetune_operator.types import Object

logger = logging.getLogger("finetune_operator.budgets")


@dataclass(kw_only=True)
class Surroundings:
    """The namespaces and PriorityClasses of the last list."""

    kube: Kube
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Labels of each namespace."""
    generation: int = 0
    """Number of lists whose labels differed from those before; 0 before the first one."""
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _priorities: Mapping[str, int] = field(default_factory=dict)
    _default: int = 0

    async def refresh(self) -> None:
        """List namespaces and PriorityClasses. Raises OperatorError."""
        namespaces = await self.kube.list("Namespace", metadata_only=True)
        classes = await self.kube.list("PriorityClass")
        before = self.labels
        self.labels = {
            namespace["metadata"]["name"]: namespace["metadata"].get("labels") or {}
            for namespace in namespaces
        }
        self._priorities = {
            priority_class["metadata"]["name"]: int(priority_class.get("value") or 0)
            for priority_class in classes
        }
        self._default = max(
            (
                int(priority_class.get("value") or 0)
                for priority_class in classes
                if priority_class.get("globalDefault")
            ),
            default=0,
        )
        if self.generation == 0 or before != self.labels:
            self.generation += 1

    async def run(self, needed: Callable[[], object]) -> None:
        """List periodically until cancelled, while anything needs them."""
        while True:
            if needed():
                try:
                    await self.refresh()
                except OperatorError as error:
                    logger.warning("listing namespaces and PriorityClasses failed: %s", error)
            await asyncio.sleep(delays.SURROUNDINGS)

    async def require(self, namespace: str) -> None:
        """List if a namespace is unknown, because it is new. Raises OperatorError."""
        if namespace in self.labels:
            return
        async with self._lock:
            # Many jobs may wait for the first list.
            if namespace not in self.labels:
                await self.refresh()

    def priority(self, job: Object) -> int:
        """Return the value of the PriorityClass of a job."""
        name = job["spec"].get("priorityClassName")
        return self._default if name is None else self._priorities.get(name, 0)
