"""The claim of a shared endpoint as one of the targets of publishing. It is no part of the API."""

from finetune_api.v1alpha1.publishing.targets import PublishTarget

NAME = "endpoint"
"""Name of the endpoint in ``status.publish``, which no target of ``spec.publish`` has."""
PREFIX = "endpoint://"
"""Begins the destination of an endpoint in the ledger."""


class SharedEndpointTarget(PublishTarget):
    """The claim of a FineTuneEndpoint, which gets the adapter and its reference."""

    endpoint: str
    """Its name."""
    uid: str
    volume: str | None
    """UID of the claim; None if it is not known yet, so that nothing can be published."""

    @classmethod
    def of(cls, endpoint: str, uid: str, volume: str | None) -> "SharedEndpointTarget":
        """Return the target. The endpoint verifies the adapter, so it is published before that."""
        return cls.model_construct(
            name=NAME, what="adapter", when="Trained", endpoint=endpoint, uid=uid, volume=volume
        )

    @property
    def destination(self) -> str:
        """As of a target. Another claim of the endpoint, or of its successor, is empty."""
        return f"{PREFIX}{self.endpoint}/{self.uid}/{self.volume}"

    @property
    def moving_names(self) -> tuple[str, ...]:
        """As of a target."""
        return ()

    @property
    def secret(self) -> None:
        """As of a target: none is needed, because the claim is mounted."""
        return

    @property
    def certificates(self) -> None:
        """As of a target."""
        return
