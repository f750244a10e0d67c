"""An image of a model with the signed statement of the operator, as a job publishes both."""

from dataclasses import dataclass

from tests.support.trainer.publishing import Volume, run
from tests.support.trainer.statements import statements_about
from tests.support.trainer.web import Certificate


@dataclass(frozen=True, kw_only=True)
class Image:
    """A published image. ``manifest``: SHA-256 (hex) of manifest.json, from the ledger."""

    reference: str
    digest: str
    manifest: str
    content: str
    """SHA-256 (hex) of the manifest on the volume, from the ledger."""

    @classmethod
    def publish(cls, volume: Volume, host: str, certificate: Certificate, what: str) -> "Image":
        """Publish, and add the statement in another attempt, as the operator does."""
        place = {"repository": f"{host}/team/tiny", "ca": str(certificate.authority)}
        target = volume.target(what, oci=place, tags=(f"latest-{what}",))
        done = run(volume, target)
        assert done.error is None, done.failure
        signs = statements_about(done, "registry")
        attested = run(volume, target | signs)
        assert attested.error is None, attested.failure
        assert attested.only.attestation is not None
        digest, manifest = done.only.digest, done.only.manifest
        assert digest is not None
        assert manifest is not None
        return cls(
            reference=f"{host}/team/tiny@{digest}",
            digest=digest,
            manifest=manifest,
            content=target["content"],
        )
