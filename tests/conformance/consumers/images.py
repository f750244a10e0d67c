"""An image of a model with the signed statement of the operator, as a job publishes both."""

import json
from dataclasses import dataclass, replace
from typing import Any

from tests.support.published_facts import facts
from tests.support.signing_keys import KEY
from tests.support.trainer.publishing import Published, Volume, run
from tests.support.trainer.web import Certificate

from finetune_operator.provenance import signed
from finetune_operator.provenance.statement import statement


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


def statements_about(done: Published, name: str = "bucket") -> dict[str, Any]:
    """Return the fields of the request that adds the operator's statements about a content.

    name: of the target in the facts.
    """
    found = facts(name)
    known = {"digest": done.only.digest, "manifest": done.only.manifest}
    publication = found.publication.model_copy(update=known)
    bundle = signed.bundle(statement(replace(found, publication=publication)), KEY)
    on_hub = found.place.hugging_face is not None
    signature = None
    if done.lists is not None:
        signature = signed.model_signature(done.files, KEY, on_hub=on_hub)
    return {
        "attestation": json.dumps(bundle),
        "attested": f"sha256:{done.only.manifest}" if on_hub else done.only.digest,
        "model_signature": signature,
    }
