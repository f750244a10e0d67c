"""The files of a model in the layers of an image: those below ``models/``.

Layers replace and remove files of earlier ones, as a container runtime unpacks them. An image of
another tool may have several files in a layer, layers of a distribution, and compressed layers. So
every layer is read once to know its files.
"""

import hashlib
import posixpath
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from finetune_api.safety.redaction import one_line
from finetune_trainer.sources.oci.image_manifest import Layer
from finetune_trainer.sources.oci.registry_errors import RegistryError
from finetune_trainer.sources.oci.tar_stream import Archive, Entry, InvalidArchive

FOLDER = "models"
CHUNK = 1 << 20
MOST_FILES = 10_000
"""Files of an image, and files and folders that its layers remove."""
LONGEST_NAME = 4096
"""Bytes of the path of a file, which is the limit of Linux."""
MOST_EXPANSION = 64
"""Size of an archive per compressed byte. Weights shrink by less than half; zeros by a thousand."""
FREE_EXPANSION = 64 << 20
"""Bytes of an archive that are always accepted."""
SMALL = 32 << 20
"""Bytes of a file in a compressed layer that is kept in memory, so that the layer is not read again
for it, and of all of these files."""
_REMOVED, _EMPTIED = ".wh.", ".wh..wh..opq"


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file in a layer. ``offset`` is that of its content in the uncompressed layer."""

    layer: Layer
    offset: int
    size: int
    sha256: str
    data: bytes | None = None
    """The content of a small file in a compressed layer."""


@dataclass(kw_only=True)
class Listing:
    """What a layer changes: files by name below ``models/``, and names that it removes."""

    files: dict[str, Member] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    """Names of files or folders; an empty text removes everything."""


def read(layer: Layer, chunks: Iterator[bytes], *, keep: int) -> Listing:
    """Return the listing of a layer. Raise RegistryError for a layer that is not usable.

    chunks: the layer as the registry stores it. keep: bytes of small files that may be kept.
    """
    listing = Listing()
    try:
        archive = Archive(content(layer, chunks))
        for entry in archive:
            name = _name_of(entry)
            if name is not None:
                keep -= _add(listing, layer, name, entry, archive, keep)
    except InvalidArchive as error:
        raise RegistryError(
            f"its layer {layer.digest} cannot be read ({error}): push the image again"
        ) from None
    return listing


def content(layer: Layer, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield an uncompressed layer. Raise InvalidArchive for damaged or absurd compressed data."""
    return _decompressed(chunks) if layer.compressed else chunks


def merged(listings: Iterator[Listing]) -> Mapping[str, Member]:
    """Return the files of an image: later layers replace and remove files of earlier ones."""
    files: dict[str, Member] = {}
    removed = 0
    for listing in listings:
        removed += len(listing.removed)
        files = _without(files, listing.removed) | listing.files
        for count, does in ((len(files), "has"), (removed, "removes")):
            if count > MOST_FILES:
                raise RegistryError(
                    f"it {does} more than {MOST_FILES:,} files below /{FOLDER}: name an image of "
                    "one model"
                )
    return files


def _add(
    listing: Listing, layer: Layer, name: str, entry: Entry, archive: Archive, keep: int
) -> int:
    """Add an entry to a listing; return the number of bytes that are kept in memory."""
    parent, _, last = name.rpartition("/")
    if last.startswith(_REMOVED):
        whole = last == _EMPTIED
        listing.removed.add(
            parent if whole else posixpath.join(parent, last.removeprefix(_REMOVED))
        )
        _require_few(listing, layer, name)
        return 0
    if entry.kind == "folder":
        return 0
    shown = one_line(repr(f"/{FOLDER}/{name}".rstrip("/")), 300)
    if entry.kind != "file" or not name:
        raise RegistryError(
            f"{shown} in it is a link or no regular file: copy the files of the model, without "
            "links, into the image"
        )
    if name in listing.files:
        raise RegistryError(
            f"its layer {layer.digest} has the file {shown} twice: build the image again"
        )
    _require_few(listing, layer, name)
    digest, data = hashlib.sha256(), bytearray()
    kept = layer.compressed and entry.size <= keep
    for chunk in archive.content():
        digest.update(chunk)
        if kept:
            data += chunk
    listing.files[name] = Member(
        layer=layer,
        offset=entry.offset,
        size=entry.size,
        sha256=digest.hexdigest(),
        data=bytes(data) if kept else None,
    )
    return len(data)


def _require_few(listing: Listing, layer: Layer, name: str) -> None:
    if len(listing.files) + len(listing.removed) > MOST_FILES:
        shown = one_line(repr(f"/{FOLDER}/{name}"), 300)
        raise RegistryError(
            f"its layer {layer.digest} has too many files, of which {shown} is one: name an image "
            "of one model"
        )


def _name_of(entry: Entry) -> str | None:
    """Return the name of an entry below ``models/``, empty for the folder; None for another one.

    Raise RegistryError for a name that leads there on a way that unpacking tools disagree about.
    """
    name = entry.name.removeprefix("./").rstrip("/")
    where = posixpath.normpath(f"/{entry.name}").lstrip("/")
    if where == f"{_REMOVED}{FOLDER}":
        return _EMPTIED
    if where != FOLDER and not where.startswith(f"{FOLDER}/"):
        return None
    shown = one_line(repr(entry.name), 300)
    if name != where:
        raise RegistryError(
            f"it has a file with the path {shown}, which is absolute or has empty steps or dots: "
            "build the image again"
        )
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise RegistryError(f"the path {shown} in it is not valid UTF-8: rename the file") from None
    if length > LONGEST_NAME:
        raise RegistryError(
            f"the file {shown} in it has a path of {length:,} bytes, of which {LONGEST_NAME:,} are "
            "allowed: rename the file"
        )
    return name.removeprefix(FOLDER).removeprefix("/")


def _without(files: dict[str, Member], removed: set[str]) -> dict[str, Member]:
    """Return the files that a layer does not remove.

    ``MOST_FILES`` of both, each name 2,000 bytes long, took 0.6 seconds. The prefixes of a name in
    a set would cost more: a path may have 2,000 folders, and an image 4,096 layers.
    """
    if "" in removed:
        return {}
    folders = tuple(f"{folder}/" for folder in removed)
    return {
        name: file
        for name, file in files.items()
        if name not in removed and not name.startswith(folders)
    }


def _decompressed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the content of a gzip stream, which may have several members, in chunks."""
    given = made = 0
    stream = zlib.decompressobj(wbits=31)
    try:
        for chunk in chunks:
            given += len(chunk)
            while chunk:
                if stream.eof:
                    stream = zlib.decompressobj(wbits=31)
                data = stream.decompress(chunk, CHUNK)
                made += len(data)
                if made > FREE_EXPANSION + MOST_EXPANSION * given:
                    raise InvalidArchive(
                        f"{given:,} compressed bytes expand to more than {made:,} bytes"
                    )
                yield data
                chunk = stream.unused_data if stream.eof else stream.unconsumed_tail
        if not stream.eof:
            raise InvalidArchive("its compressed data are truncated")
    except zlib.error as error:
        raise InvalidArchive(f"its compressed data are damaged ({error})") from None
