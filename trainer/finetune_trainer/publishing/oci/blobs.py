"""Blobs of a repository: uploaded in parts that can be resumed, and read back.

A blob is sent in parts, each in one request, so that a process that should end only has to finish
its part. A few registries accept a blob in a single request only; they get it in one.
"""

import hashlib
import re

from finetune_trainer.publishing.oci.image import Blob
from finetune_trainer.publishing.oci.registry import Registry
from finetune_trainer.publishing.oci.retries import Tries
from finetune_trainer.publishing.target_errors import TargetRejected
from finetune_trainer.runtime.log import log
from finetune_trainer.sources.oci.registry_errors import Interrupted, Refused

PART = 16 << 20
"""Bytes of one request. Registries of cloud providers limit it, some to 20 MiB."""
LARGEST_PART = 1 << 30
"""A registry may ask for larger parts than ``PART``."""
UPLOADS = "blobs/uploads/"
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})")


def exists(registry: Registry, blob: Blob) -> bool:
    """Report whether the repository has a blob."""
    url = f"blobs/{blob.digest}"
    return registry.call("HEAD", url, accepted=(200, 404)).status == 200


def ensure(registry: Registry, blob: Blob) -> None:
    """Upload a blob unless the repository has it."""
    if exists(registry, blob):
        registry.transfer.stored(blob.size)
    else:
        _Upload(registry, blob).run()
    registry.transfer.check()


def read_back(registry: Registry, blob: Blob) -> None:
    """Compare the blob in the repository. Raise TargetRejected if it has another content."""
    digest, count = hashlib.sha256(), 0
    tries = Tries(registry.name, registry.transfer, what=f"reading blob {blob.digest}")
    while count < blob.size:
        headers = {"Range": f"bytes={count}-"} if count else {}
        try:
            with registry.request(
                "GET", f"blobs/{blob.digest}", headers=headers, accepted=(200, 206)
            ) as response:
                if response.status_code == 206 and not response.headers.get(
                    "Content-Range", ""
                ).startswith(f"bytes {count}-"):
                    raise Interrupted(f"the registry sent no range from byte {count}")
                # Without support of ranges, the bytes before are sent again.
                skipped = count if response.status_code == 200 else 0
                for chunk in response.iter_raw():
                    new = chunk[skipped:]
                    skipped -= len(chunk) - len(new)
                    count += len(new)
                    if count > blob.size:
                        break
                    digest.update(new)
                    registry.transfer.read_back(len(new))
            if count < blob.size:
                raise Interrupted(f"only {count} of {blob.size} bytes received")
        except Interrupted as error:
            tries.failed(error, at=count)
    if count != blob.size or f"sha256:{digest.hexdigest()}" != blob.digest:
        raise TargetRejected(
            f"the registry of {registry.name} holds other bytes for the blob {blob.digest} than "
            "were sent: its storage is damaged. Let its administrator delete this blob, and "
            "publish again"
        )


class _Upload:
    """The upload of one blob."""

    def __init__(self, registry: Registry, blob: Blob) -> None:
        self._registry = registry
        self._blob = blob
        self._part = PART
        self._location: str | None = None
        self._offset = 0
        self._recorded = 0

    def run(self) -> None:
        blob, registry = self._blob, self._registry
        tries = Tries(registry.name, registry.transfer, what=f"upload of blob {blob.digest}")
        while True:
            try:
                if self._location is None:
                    self._start()
                while self._offset < blob.size:
                    self._send_part()
                    registry.transfer.check()
                self._finish()
                return
            except Interrupted as error:
                tries.failed(error, at=self._offset)
                if self._offset == blob.size and exists(registry, blob):
                    # Only the answer to the last request was lost.
                    return
                self._find_position()
            except Refused as error:
                self._refused(error, tries)

    def _start(self) -> None:
        answer = self._registry.call("POST", UPLOADS, accepted=(202,))
        self._location = self._registry.absolute(answer.headers.get("Location", ""))
        smallest = answer.headers.get("OCI-Chunk-Min-Length", "0")
        if smallest.isdecimal() and len(smallest) < 12:
            self._part = max(self._part, min(int(smallest), LARGEST_PART))
        self._offset = 0

    def _send_part(self) -> None:
        assert self._location is not None
        first, count = self._offset, min(self._part, self._blob.size - self._offset)
        sending = self._registry.transfer.sending
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(count),
            "Content-Range": f"{first}-{first + count - 1}",
        }
        if count == self._blob.size:
            # As Docker sends it, which every registry accepts.
            del headers["Content-Range"]
        with self._registry.request(
            "PATCH",
            self._location,
            headers=headers,
            body=lambda: sending(self._blob.read(first, count)),
            accepted=(202,),
        ) as response:
            location = response.headers.get("Location", "")
        self._location = self._registry.absolute(location, self._location)
        self._reached(first + count)

    def _finish(self) -> None:
        assert self._location is not None
        separator = "&" if "?" in self._location else "?"
        with self._registry.request(
            "PUT",
            f"{self._location}{separator}digest={self._blob.digest}",
            headers={"Content-Length": "0"},
            accepted=(201, 204),
        ):
            pass

    def _find_position(self) -> None:
        """Ask how much of the upload the registry has; start again if it has forgotten it."""
        if self._location is None:
            return
        try:
            answer = self._registry.call("GET", self._location, accepted=(204,))
        except Refused:
            self._location = None
            return
        range_ = _RANGE.fullmatch(answer.headers.get("Range", ""))
        # An empty upload has the range 0-0 as well, as if it had one byte.
        position = int(range_[1]) + 1 if range_ and range_[1] != "0" else 0
        if position > self._blob.size:
            self._location = None
            return
        self._location = self._registry.absolute(
            answer.headers.get("Location", "") or self._location, self._location
        )
        self._reached(position)

    def _reached(self, offset: int) -> None:
        self._offset = offset
        if offset > self._recorded:
            self._registry.transfer.stored(offset - self._recorded)
            self._recorded = offset

    def _refused(self, error: Refused, tries: Tries) -> None:
        """Start the upload again after a refusal, if another way to send it is left."""
        if self._location is None or (self._offset == self._blob.size and error.status != 404):
            raise error
        if error.status in (404, 416):
            # The registry has forgotten the upload, or disagrees about its position.
            tries.failed(Interrupted(str(error)), at=self._offset)
        elif self._part < self._blob.size:
            log(f"the registry refuses a part of a blob ({error}): sending blobs in one request")
            self._part = self._blob.size
        else:
            raise error
        self._location = None
