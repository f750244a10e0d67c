"""Reads a tar archive of an unknown author from a stream, with bounded memory.

``tarfile`` reads a name of any length into memory that the archive announces, and follows formats
that no image needs. This reader knows the formats that tools for images write: ustar, GNU names and
pax headers.
"""

import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from finetune_api.safety.redaction import one_line

BLOCK = tarfile.BLOCKSIZE
LONGEST_HEADER = 1 << 20
"""Bytes of a long name, or of the pax header of one entry."""
Kind = Literal["file", "folder", "link", "other"]
_KINDS: Mapping[bytes, Kind] = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.CONTTYPE: "file",
    tarfile.DIRTYPE: "folder",
    tarfile.LNKTYPE: "link",
    tarfile.SYMTYPE: "link",
}
_WITHOUT_CONTENT = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
)
_LONG_NAME, _LONG_LINK = tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
_PAX, _PAX_GLOBAL = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE), tarfile.XGLTYPE


class InvalidArchive(Exception):
    """The bytes are no archive that this reader knows; the text names the problem."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An entry of an archive. ``offset`` is that of its content, which has ``size`` bytes."""

    name: str
    kind: Kind
    size: int
    offset: int


class Archive:
    """Iterates over the entries; the content of the present one can be read once."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        """``chunks``: the archive, uncompressed, from its first byte."""
        self._chunks = chunks
        self._rest = memoryview(b"")
        self._at = 0
        self._left = 0

    def __iter__(self) -> Iterator[Entry]:
        """Yield each entry, then read the stream to its end. Raise InvalidArchive."""
        name: str | None = None
        extended: dict[str, str] = {}
        while not self._has_ended() and (header := self._exactly(BLOCK)).strip(b"\0"):
            info = _header(header)
            if info.type in (_LONG_NAME, _LONG_LINK, *_PAX, _PAX_GLOBAL):
                data = self._metadata(info.size)
                if info.type == _LONG_NAME:
                    name = _text(data.partition(b"\0")[0])
                elif info.type in _PAX:
                    extended = _pax(data)
                continue
            entry = self._entry(info, name, extended)
            name, extended = None, {}
            self._left = entry.size
            yield entry
            for _ in self.content():
                pass
            self._exactly(-entry.size % BLOCK)
        for chunk in self._chunks:
            self._at += len(chunk)

    def content(self) -> Iterator[bytes]:
        """Yield what is not read yet of the content of the present entry."""
        while self._left:
            chunk = self._some(self._left)
            self._left -= len(chunk)
            yield chunk

    def _entry(self, info: tarfile.TarInfo, name: str | None, extended: dict[str, str]) -> Entry:
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise InvalidArchive(f"the file {one_line(repr(info.name), 200)} is sparse")
        kind: Kind = _KINDS.get(info.type, "other")
        if any(key.startswith("GNU.sparse.") for key in extended):
            kind = "other"
        empty = info.type in _WITHOUT_CONTENT
        return Entry(
            name=extended.get("path") or name or info.name,
            kind=kind,
            size=0 if empty else _size(extended.get("size"), info.size),
            offset=self._at,
        )

    def _metadata(self, size: int) -> bytes:
        if not 0 <= size <= LONGEST_HEADER:
            raise InvalidArchive(f"a name or a header has {size:,} bytes")
        data = self._exactly(size)
        self._exactly(-size % BLOCK)
        return data

    def _exactly(self, count: int) -> bytes:
        """Return the next bytes of a header."""
        header = bytearray()
        while len(header) < count:
            header += self._some(count - len(header))
        return bytes(header)

    def _has_ended(self) -> bool:
        """Report whether no byte is left; some tools write no end after the last entry."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return True
            self._rest = memoryview(chunk)
        return False

    def _some(self, most: int) -> bytes:
        if self._has_ended():
            raise InvalidArchive("the archive ends within an entry")
        data, self._rest = self._rest[:most], self._rest[most:]
        self._at += len(data)
        return bytes(data)


def _header(block: bytes) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise InvalidArchive(f"the header of an entry is damaged ({error})") from None
    if info.size < 0:
        raise InvalidArchive(f"an entry has the size {info.size}")
    return info


def _pax(data: bytes) -> dict[str, str]:
    """Return the records of a pax header, ``LENGTH KEY=VALUE`` and a line break each."""
    records, at = {}, 0
    while at < len(data):
        digits, space, _ = data[at : at + 20].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        record = data[at + len(digits) + 1 : at + length]
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        if length > len(data) - at or not record.endswith(b"\n") or not equals:
            raise InvalidArchive("a pax header is damaged")
        records[_text(key)] = _text(value)
        at += length
    return records


def _size(text: str | None, otherwise: int) -> int:
    if text is None:
        return otherwise
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise InvalidArchive(f"an entry has the size {one_line(repr(text), 40)}")
    return int(text)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
