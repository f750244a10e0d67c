"""What the parts of an endpoint's plan have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from finetune_api.v1alpha1.endpoints.status import FineTuneEndpointStatus
from finetune_operator.objects import endpoints, naming
from finetune_operator.reconcile.serving import allowance
from finetune_operator.reconcile.serving.allowance import Allowance
from finetune_operator.reconcile.serving.state import Replicas
from finetune_operator.revisions.sharing.settings import TargetEndpoint
from finetune_operator.signing import SigningKey
from finetune_operator.types import EndpointSnapshot, Object

PODS = 1
"""Of an endpoint that no budget stops."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A snapshot, parsed. key: with which the list of names is signed."""

    snapshot: EndpointSnapshot
    target: TargetEndpoint
    previous: FineTuneEndpointStatus
    key: SigningKey
    now: datetime

    @property
    def endpoint(self) -> Object:
        """The FineTuneEndpoint."""
        return self.snapshot.endpoint

    @property
    def public_key(self) -> str:
        """The public key in PEM format."""
        return self.key.public_key.decode()

    @cached_property
    def allowed(self) -> Allowance:
        """How many pods the budgets of the namespace allow."""
        snapshot = self.snapshot
        return allowance.decide(snapshot.accounts, snapshot.endpoint, snapshot.deployments)

    @property
    def replicas(self) -> int:
        """Number of pods: one, or none if a budget allows none."""
        return self.allowed.limited(Replicas(PODS)).count

    @property
    def deployment(self) -> Object | None:
        """The endpoint's own Deployment, if it exists."""
        return self.own("Deployment", endpoints.deployment_name)

    @property
    def claim(self) -> Object | None:
        """The endpoint's own claim, if it exists."""
        return self.own(naming.VOLUME, endpoints.object_name)

    def own(self, kind: str, named: Callable[[str], str]) -> Object | None:
        """Return the endpoint's own object of a kind. named: the function that names it."""
        name = named(self.endpoint["metadata"]["name"])
        return next(
            (
                child
                for child in self.snapshot.children(kind)
                if child["metadata"]["name"] == name and naming.owned_by(self.endpoint, child)
            ),
            None,
        )
