"""What the reader of jobs needs of the recorder of usage (``controller.usage``)."""

from typing import Protocol

from finetune_operator.usage.values import NamespaceUsage, ReservationRequest


class UsageSource(Protocol):
    """Knows the usage of namespaces, and reserves GPU time."""

    async def read(self, namespace: str) -> NamespaceUsage:
        """Return the usage of a namespace once it is known. Raises OperatorError."""

    async def reserve(self, request: ReservationRequest) -> bool:
        """Record a reservation; return whether the usage has changed. Raises OperatorError."""
