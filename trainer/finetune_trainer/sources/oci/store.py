"""An image in an OCI registry, pinned to the digest of its manifest.

An image that this project has published has one plain archive per file, and a list of the SHA-256
of all files. Each file is requested alone, as a range of its layer. Of other images, every layer is
read once to know its files, and compared with its digest; a file is then a range of a plain layer,
while a compressed layer is read a second time.
"""

import hashlib
import ssl
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from finetune_api.safety import untrusted_json
from finetune_api.v1alpha1.sources import OCI_SOURCE_PREFIX, Kind
from finetune_trainer.errors import InvalidSpec, TrainerError, Transient
from finetune_trainer.runtime.log import log
from finetune_trainer.sources import egress, trust
from finetune_trainer.sources.oci import (
    attached,
    docker_config,
    image_layers,
    image_manifest,
    layer_stream,
)
from finetune_trainer.sources.oci.image_layers import Member
from finetune_trainer.sources.oci.image_manifest import Layer
from finetune_trainer.sources.oci.registry import Client, Fields
from finetune_trainer.sources.oci.registry_errors import Interrupted, RegistryError
from finetune_trainer.sources.oci.tar_stream import BLOCK, Archive, InvalidArchive
from finetune_trainer.sources.remote import RemoteStore
from finetune_trainer.sources.repository import (
    OnBytes,
    RemoteFile,
    Repository,
    missing,
    reporting_bytes,
)
from finetune_trainer.sources.transfer import BrokenTransfer, has, path_below
from finetune_trainer.volume_layout import partial_path

LIST = "manifest.json"
"""File of a published image with the SHA-256 of the others (``checkpointing.manifest``)."""
_END = 2 * BLOCK


class OCI(RemoteStore):
    """Reads one image. ``login`` is the content of a Docker configuration, None for none."""

    def __init__(
        self,
        *,
        kind: Kind,
        source: str,
        login: str | None,
        ca_file: Path | None,
    ) -> None:
        """``source`` is ``oci://HOST/PATH``, and ``:TAG`` or ``@sha256:DIGEST``.

        ``ca_file`` has certificates to trust in addition. Raise AccessDenied if the credentials
        cannot be used.
        """
        super().__init__(kind=kind, name=source, remediation=f"correct {kind}.source")
        self._repository, self._reference = split(source)
        self._fields = Fields(secret=f"{kind}.oci.secretRef", certificates=f"{kind}.caConfigMapRef")
        self._login = None
        if login is not None:
            self._login = docker_config.login(login, self._repository, field=self._fields.secret)
        self._ca_file = ca_file
        self._members: Mapping[str, Member] = {}

    def pin(self) -> Repository:
        """Return the files of the image to which the reference resolves now."""
        with self._named(), self._session() as client:
            digest, layers = self._resolved(client)
            self._members = _listed(client, layers) or _read(client, layers)
        if not self._members:
            raise InvalidSpec(
                f"{self.what} has no file below /{image_layers.FOLDER}: name an image with the "
                f"files of a model in this folder in {self.kind}.source"
            )
        files = {
            name: RemoteFile(name=name, size=member.size, sha256=member.sha256)
            for name, member in self._members.items()
        }
        return Repository(
            kind=self.kind,
            name=self._repository,
            commit=digest.removeprefix("sha256:"),
            files=files,
        )

    def download(
        self,
        repository: Repository,
        names: Iterable[str],
        into: Path,
        *,
        on_bytes: OnBytes = lambda count: None,
    ) -> dict[str, str]:
        """Download files as every store does; those of a compressed layer from one stream."""
        names = list(names)
        direct: list[str] = []
        streamed: defaultdict[Layer, list[str]] = defaultdict(list)
        for name in names:
            member = self._members[name]
            if member.layer.compressed:
                streamed[member.layer].append(name)
            else:
                direct.append(name)
        digests = super().download(repository, direct, into, on_bytes=on_bytes)
        if streamed:
            with self._named(), self._session() as client, reporting_bytes(into, on_bytes):
                for layer, wanted in streamed.items():
                    self._unpack(client, layer, wanted, into)
        return digests | {name: self._members[name].sha256 for name in names}

    def statements(self, repository: Repository) -> list[bytes]:
        """Return the signed statements about the image. Nothing about them is checked."""
        types, limit = image_manifest.TYPES, image_manifest.LONGEST
        with self._named(), self._session() as client:
            get = partial(layer_stream.document, client, types=types, limit=limit)
            return list(attached.documents(get, f"sha256:{repository.commit}"))

    def _unpack(self, client: Client, layer: Layer, names: list[str], into: Path) -> None:
        """Write files of a compressed layer that are not complete yet."""
        left: dict[str, Path] = {}
        for name in names:
            target, member = path_below(into, name, self.what), self._members[name]
            if has(target, size=member.size, sha256=member.sha256):
                continue
            if member.data is not None:
                _write(target, iter([member.data]), member, self.what)
            else:
                left[f"{image_layers.FOLDER}/{name}"] = target
        if not left:
            return
        log(f"reading layer {layer.digest} ({layer.size:,} bytes, compressed) once more")
        archive = Archive(image_layers.content(layer, layer_stream.layer(client, layer)))
        try:
            for entry in archive:
                path = entry.name.removeprefix("./")
                if entry.kind == "file" and path in left:
                    member = self._members[path.removeprefix(f"{image_layers.FOLDER}/")]
                    _write(left.pop(path), archive.content(), member, self.what)
                    if not left:
                        return
        except InvalidArchive as error:
            raise Transient(
                f"a layer of {self.what} is damaged ({error}): the next attempt reads it again"
            ) from None
        raise Transient(f"a layer of {self.what} has changed: the next attempt reads it again")

    @contextmanager
    def _session(self) -> Iterator[Client]:
        egress.announce(f"https://{self._repository}", chosen_by_job=True)
        context = ssl.create_default_context()
        if self._ca_file is not None:
            trust.load(context, self._ca_file, field=self._fields.certificates)
        client = Client(
            self._repository,
            login=self._login,
            fields=self._fields,
            context=context,
            pushes=False,
        )
        try:
            yield client
        finally:
            client.close()

    @contextmanager
    def _opened(
        self, session: Client, repository: Repository, name: str, offset: int
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        member = self._members[name]
        first, end = member.offset + offset, member.offset + member.size
        with closing(layer_stream.part(session, member.layer, first, end)) as chunks:
            try:
                yield offset, chunks
            except Interrupted as error:
                raise BrokenTransfer(str(error)) from error

    def _resolved(self, client: Client) -> tuple[str, tuple[Layer, ...]]:
        """Return digest and layers of the image to which the reference resolves."""
        digest = self._reference if self._reference.startswith("sha256:") else None
        manifest = self._manifest(client, self._reference, digest)
        layers = image_manifest.layers(manifest)
        if layers is None:
            digest = image_manifest.chosen(manifest)
            manifest = self._manifest(client, digest, digest)
            layers = image_manifest.layers(manifest)
            if layers is None:
                raise RegistryError(
                    "its index refers to another index: name an image by its digest"
                )
        resolved = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
        log(f"{self.what} is the image {resolved} with {len(layers)} layers")
        return resolved, layers

    def _manifest(self, client: Client, name: str, digest: str | None) -> bytes:
        """Return a manifest. digest: that it must have; a tag may have any."""
        manifest = layer_stream.manifest(
            client, name, image_manifest.TYPES, limit=image_manifest.LONGEST
        )
        if manifest is None:
            raise missing(self.kind)(
                f"{self.what} does not exist: correct {self.kind}.source, or publish the image"
            )
        if digest not in (None, f"sha256:{hashlib.sha256(manifest).hexdigest()}"):
            raise RegistryError(
                f"the registry returns another manifest for {digest}: check the storage of the "
                "registry"
            )
        return manifest

    def _meaning(self, error: Exception) -> TrainerError | None:
        if isinstance(error, RegistryError):
            return InvalidSpec(f"{self.what} cannot be read: {error}")
        if isinstance(error, Interrupted):
            return Transient(
                f"the registry is unreachable or fails for {self.what} ({error}): the next "
                "attempt retries the download. If the error persists, check the registry and the "
                "network policy"
            )
        return None


def split(source: str) -> tuple[str, str]:
    """Return repository, and tag or digest, of a source; ``latest`` if it names neither."""
    reference = source.removeprefix(OCI_SOURCE_PREFIX)
    repository, _, digest = reference.partition("@")
    if digest:
        return repository, digest
    folders, _, last = reference.rpartition("/")
    last, _, tag = last.partition(":")
    return f"{folders}/{last}", tag or "latest"


def _listed(client: Client, layers: tuple[Layer, ...]) -> dict[str, Member]:
    """Return the files of an image that this project has published; none for any other image.

    The list in the image is proved by its layer's digest, and proves the files in turn.
    """
    titled = {layer.title: layer for layer in layers if layer.title and not layer.compressed}
    if LIST not in titled or len(titled) != len(layers):
        return {}
    if titled[LIST].size > image_manifest.LONGEST:
        return {}
    archive = Archive(layer_stream.layer(client, titled[LIST]))
    try:
        texts = [b"".join(archive.content()) for entry in archive if entry.kind == "file"]
        entries = untrusted_json.parse(texts[0])["files"]
        files = {
            str(entry["name"]): (int(entry["size"]), str(entry["sha256"])) for entry in entries
        }
    except (InvalidArchive, ValueError, LookupError, TypeError):
        return {}
    if files.keys() != titled.keys() - {LIST}:
        return {}
    files[LIST] = (len(texts[0]), hashlib.sha256(texts[0]).hexdigest())
    members = {}
    for name, (size, sha256) in files.items():
        # The headers before the file are what the layer has besides file, padding and end.
        offset = titled[name].size - size - -size % BLOCK - _END
        if size < 0 or offset < BLOCK or offset % BLOCK:
            return {}
        members[name] = Member(layer=titled[name], offset=offset, size=size, sha256=sha256)
    return members


def _read(client: Client, layers: tuple[Layer, ...]) -> Mapping[str, Member]:
    """Return the files of any image, after reading all of its layers."""

    def listings() -> Iterator[image_layers.Listing]:
        left = image_layers.SMALL
        for number, layer in enumerate(layers, start=1):
            log(f"reading layer {number} of {len(layers)} ({layer.size:,} bytes)")
            listing = image_layers.read(layer, layer_stream.layer(client, layer), keep=left)
            left -= sum(len(member.data or b"") for member in listing.files.values())
            yield listing

    return image_layers.merged(listings())


def _write(target: Path, chunks: Iterator[bytes], member: Member, what: str) -> None:
    unfinished, digest = partial_path(target), hashlib.sha256()
    with unfinished.open("wb") as out:
        for chunk in chunks:
            digest.update(chunk)
            out.write(chunk)
    if digest.hexdigest() != member.sha256:
        unfinished.unlink()
        raise Transient(f"{target.name} of {what} is damaged: the next attempt downloads it again")
    unfinished.rename(target)
