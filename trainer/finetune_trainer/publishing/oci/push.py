"""Publishes a model as an image in an OCI registry.

The manifest is sent last, when the registry has all blobs, so no name ever refers to a part of a
model. It gets the immutable name first; then the image is read back, and only then tags move to it.
"""

import hashlib
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_api.contracts.publish_targets import OCITarget, PublishTargetRequest
from finetune_api.safety import credentials
from finetune_trainer.publishing.content import Content
from finetune_trainer.publishing.oci import blobs, image
from finetune_trainer.publishing.oci.image import Blob, Layer
from finetune_trainer.publishing.oci.registry import Registry
from finetune_trainer.publishing.outcome import Outcome
from finetune_trainer.publishing.target_errors import TargetConflict, TargetRejected
from finetune_trainer.publishing.transfer import Transfer
from finetune_trainer.sources import trust
from finetune_trainer.sources.oci import docker_config
from finetune_trainer.sources.oci.registry import Fields

MANIFEST_FILE = "manifest.json"


def publish(
    target: PublishTargetRequest,
    content: Content,
    outcome: Outcome,
    transfer: Transfer,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Publish a content, and read it back. ``outcome`` gets the reference.

    Raise TargetError or TrainerError. What was published under the immutable name stays.
    """
    assert target.oci is not None
    registry = connected(target, target.oci, transfer, environment)
    try:
        _Push(registry, target, content, outcome).run()
    finally:
        registry.close()


def connected(
    target: PublishTargetRequest, oci: OCITarget, transfer: Transfer, environment: Mapping[str, str]
) -> Registry:
    """Return the client of the repository of a target."""
    place = f"publish[{target.name}].oci"
    fields = Fields(secret=f"{place}.secretRef", certificates=f"{place}.caConfigMapRef")
    text = environment.get(credentials.of_target(target.name) + credentials.DOCKER_CONFIG)
    context = ssl.create_default_context()
    if oci.ca is not None:
        trust.load(context, Path(oci.ca), field=fields.certificates)
    return Registry(
        oci.repository,
        login=None
        if text is None
        else docker_config.login(text, oci.repository, field=fields.secret),
        fields=fields,
        context=context,
        transfer=transfer,
    )


@dataclass(frozen=True, kw_only=True)
class _Image:
    """The image of a content."""

    layers: tuple[Layer, ...]
    config: Blob
    manifest: bytes

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.manifest).hexdigest()}"

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """All blobs, those of equal files once."""
        blobs = (*(layer.blob for layer in self.layers), self.config)
        return tuple({blob.digest: blob for blob in blobs}.values())


class _Push:
    """The publication of one content in one repository."""

    def __init__(
        self, registry: Registry, target: PublishTargetRequest, content: Content, outcome: Outcome
    ) -> None:
        self._registry = registry
        self._target = target
        self._content = content
        self._outcome = outcome

    def run(self) -> None:
        target, registry = self._target, self._registry
        present = self._digest_of(target.version)
        built = self._image(send=present is None)
        if present not in (None, built.digest):
            raise TargetConflict(
                f"{registry.name}:{target.version} exists with the digest {present} instead of "
                f"{built.digest}, and this name is never changed: delete it at the registry, or "
                "publish to another repository"
            )
        for blob in [built.config] if present is None else built.blobs:
            # An image whose blobs were deleted is completed.
            blobs.ensure(registry, blob)
        if present is None:
            self._put(target.version, built)
        self._outcome.completed(f"{registry.name}@{built.digest}", built.digest)
        self._read_back(built)
        self._move_tags(built)

    def _image(self, *, send: bool) -> _Image:
        """Return the image. Each layer is sent when its digest is known, and its file cached."""
        layers = []
        for file in self._content.files:
            layers.append(image.layer_of(file, self._registry.transfer.check))
            if send:
                blobs.ensure(self._registry, layers[-1].blob)
        layers.append(image.layer_of_bytes(MANIFEST_FILE, self._content.manifest))
        if send:
            blobs.ensure(self._registry, layers[-1].blob)
        annotations = self._target.annotations
        config = image.blob_of(image.config_of(layers, annotations))
        return _Image(
            layers=tuple(layers),
            config=config,
            manifest=image.manifest_of(config, layers, annotations),
        )

    def _digest_of(self, name: str) -> str | None:
        """Return the digest of the manifest under a tag or digest; None if there is none."""
        manifest = self._registry.manifest(name)
        return None if manifest is None else f"sha256:{hashlib.sha256(manifest).hexdigest()}"

    def _put(self, name: str, built: _Image) -> None:
        self._registry.call(
            "PUT",
            f"manifests/{name}",
            headers={"Content-Type": image.MANIFEST_TYPE},
            body=built.manifest,
            accepted=(201,),
        )
        self._require(name, built)

    def _require(self, name: str, built: _Image) -> None:
        """Raise TargetRejected if a name does not refer to the image."""
        if (present := self._digest_of(name)) != built.digest:
            raise TargetRejected(
                f"the registry returns {'no manifest' if present is None else present} for "
                f"{self._registry.name}:{name} instead of {built.digest}, which was sent: check "
                "whether another client publishes under this name, and the storage of the registry"
            )

    def _read_back(self, built: _Image) -> None:
        self._require(built.digest, built)
        for blob in built.blobs:
            blobs.read_back(self._registry, blob)

    def _move_tags(self, built: _Image) -> None:
        """Move the tags that this job may move. Raise TargetConflict for the others, at the end."""
        conflicts = []
        for tag in self._target.tags:
            present = self._digest_of(tag)
            if present == built.digest:
                continue
            if present is None or present in self._target.own or self._target.overwrite:
                self._put(tag, built)
            else:
                conflicts.append(f"{tag} ({present})")
        if conflicts:
            raise TargetConflict(
                f"the tags {', '.join(conflicts)} of {self._registry.name} refer to images that "
                f"this job has not published, so they were not moved to {built.digest}: choose "
                f"other tags, or set publish[{self._target.name}].overwrite to true"
            )
