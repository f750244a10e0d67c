"""The signed statement about published content that a request has for a target."""

import hashlib
import json
from base64 import b64decode
from dataclasses import dataclass

from finetune_api.contracts.provenance import attestation
from finetune_api.contracts.publish_targets import ModelSignature, PublishTargetRequest
from finetune_trainer.checkpointing import manifest
from finetune_trainer.publishing.target_errors import TargetRejected


@dataclass(frozen=True, kw_only=True)
class SignedStatement:
    """A statement in its envelope. ``subject``: the digest that the target holds."""

    subject: str
    bundle: bytes
    envelope: bytes
    predicate_type: str
    digest: str
    """SHA-256 (hex) of the signed statement."""

    model_signature: ModelSignature | None = None
    """Signature of the statement about the files of a folder, for model_signing."""

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
        model_signature=target.model_signature,
    )


def model_bundle(signed: SignedStatement, content: bytes, *, on_hub: bool = False) -> bytes:
    """Return ``model.sig`` of the published folder with this manifest.json. Raise TargetRejected.

    content: of the manifest, which is the subject of the signed statement. on_hub: whether the
    folder is a repository on a hub.
    """
    assert signed.model_signature is not None
    files = {file.name: file.sha256 for file in manifest.parse(content.decode()).files}
    files[attestation.MANIFEST] = signed.subject.removeprefix("sha256:")
    payload = attestation.canonical(attestation.folder_statement(files, on_hub=on_hub))
    if hashlib.sha256(payload).hexdigest() != signed.model_signature.payload:
        raise TargetRejected(
            "the operator has signed other files than those in the published manifest.json, so "
            f"{attestation.MODEL_SIGNATURE_FILE} is not written: set spec.rerun to a new value, "
            "and report this to your administrator"
        )
    envelope = attestation.envelope(payload, b64decode(signed.model_signature.signature))
    bundle = json.loads(signed.bundle) | {"dsseEnvelope": envelope}
    return json.dumps(bundle, sort_keys=True, separators=(",", ":")).encode()
