"""Adds a signed statement to an image that an earlier attempt has published."""

import hashlib
import os
from collections.abc import Iterable, Mapping

from finetune_api.contracts.publish_targets import PublishTargetRequest
from finetune_trainer.publishing import statement
from finetune_trainer.publishing.oci import attestation, blobs, image
from finetune_trainer.publishing.oci import push as oci
from finetune_trainer.publishing.oci.attestation import INDEX_TYPE
from finetune_trainer.publishing.oci.image import Blob
from finetune_trainer.publishing.oci.registry import Registry
from finetune_trainer.publishing.outcome import Outcome
from finetune_trainer.publishing.statement import SignedStatement
from finetune_trainer.publishing.target_errors import TargetRejected
from finetune_trainer.publishing.transfer import Transfer
from finetune_trainer.sources.oci import image_manifest


def attest(
    target: PublishTargetRequest,
    outcome: Outcome,
    transfer: Transfer,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Add the statement in the request, as a tag and as a referrer.

    Raise TargetError or TrainerError.
    """
    assert target.oci is not None
    registry = oci.connected(target, target.oci, transfer, environment)
    try:
        _attest(registry, statement.of(target))
    finally:
        registry.close()
    assert target.attested is not None
    outcome.completed(f"{registry.name}@{target.attested}", target.attested)
    outcome.attestation = statement.of(target).digest


def _attest(registry: Registry, signed: SignedStatement) -> None:
    published = registry.manifest(signed.subject)
    if published is None or _digest(published) != signed.subject:
        raise TargetRejected(
            f"{registry.name}@{signed.subject} was published and is gone: set spec.rerun to a new "
            "value, or remove the target, and add it again under another name"
        )
    name = f"{registry.name}:{signed.tag}"
    present = registry.manifest(signed.tag)
    tagged, parts = attestation.tagged(signed, present, name)
    if tagged != present:
        _send(registry, signed.tag, tagged, parts)
    manifest, parts = attestation.referrer(signed, len(published))
    digest = _digest(manifest)
    if registry.manifest(digest) is None:
        _send(registry, digest, manifest, parts)
    if _keeps_referrers(registry, signed.subject):
        return
    name = f"{registry.name}:{signed.fallback_tag}"
    index = attestation.listed(signed, manifest, registry.manifest(signed.fallback_tag), name)
    if index is not None:
        _send(registry, signed.fallback_tag, index, (), INDEX_TYPE)


def _send(
    registry: Registry,
    name: str,
    manifest: bytes,
    parts: Iterable[Blob],
    media_type: str = image.MANIFEST_TYPE,
) -> None:
    """Send a manifest after its blobs, and read it back."""
    for blob in parts:
        blobs.ensure(registry, blob)
    headers = {"Content-Type": media_type}
    registry.call("PUT", f"manifests/{name}", headers=headers, body=manifest, accepted=(201,))
    for blob in parts:
        blobs.read_back(registry, blob)
    if registry.manifest(name) != manifest:
        raise TargetRejected(
            f"the registry returns another manifest for {registry.name}:{name} than was sent: "
            "check whether another client signs at the same time, and the storage of the registry"
        )


def _keeps_referrers(registry: Registry, digest: str) -> bool:
    """Report whether the registry lists the referrers of an image itself."""
    answer = registry.call(
        "GET", f"referrers/{digest}", accepted=(200, 404), limit=image_manifest.LONGEST
    )
    return answer.status == 200


def _digest(manifest: bytes) -> str:
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"
