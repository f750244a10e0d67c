"""The signed statement about published content that a request has for a target."""

import hashlib
import json
from dataclasses import dataclass

from finetune_api.contracts import attestation
from finetune_api.contracts.stage_request import PublishTargetRequest


@dataclass(frozen=True, kw_only=True)
class SignedStatement:
    """A statement in its envelope. ``subject``: the digest that the target holds."""

    subject: str
    bundle: bytes
    envelope: bytes
    predicate_type: str
    digest: str
    """SHA-256 (hex) of the signed statement."""

    @property
    def tag(self) -> str:
        """Tag of the statements that cosign reads."""
        return f"{self.fallback_tag}.att"

    @property
    def fallback_tag(self) -> str:
        """Tag of the list of referrers at a registry that keeps no such list."""
        return self.subject.replace(":", "-")


def of(target: PublishTargetRequest) -> SignedStatement:
    """Return the statement in a request that has one."""
    assert target.attestation is not None
    assert target.attested is not None
    bundle = target.attestation.encode()
    payload = attestation.opened(bundle).payload
    return SignedStatement(
        subject=target.attested,
        bundle=bundle,
        envelope=json.dumps(
            json.loads(bundle)["dsseEnvelope"], sort_keys=True, separators=(",", ":")
        ).encode(),
        predicate_type=attestation.statement(payload)["predicateType"],
        digest=hashlib.sha256(payload).hexdigest(),
    )
