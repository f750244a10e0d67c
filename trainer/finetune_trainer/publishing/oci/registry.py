"""The registry of a target: requests that are repeated until the transfer should end."""

import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from finetune_trainer.publishing.oci.retries import Tries
from finetune_trainer.publishing.transfer import Transfer
from finetune_trainer.sources.oci import image_manifest
from finetune_trainer.sources.oci.docker_config import Login
from finetune_trainer.sources.oci.registry import Body, Client, Fields, read_up_to
from finetune_trainer.sources.oci.registry_errors import Interrupted


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A response whose body was read."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Registry(Client):
    """A repository to which a transfer sends an image, or from which it reads one back."""

    def __init__(
        self,
        repository: str,
        *,
        login: Login | None,
        fields: Fields,
        context: ssl.SSLContext,
        transfer: Transfer,
        pushes: bool = True,
    ) -> None:
        """Arguments as those of the client."""
        super().__init__(repository, login=login, fields=fields, context=context, pushes=pushes)
        self.transfer = transfer

    def call(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        accepted: tuple[int, ...],
        limit: int = 0,
    ) -> Answer:
        """Send a request, again after an error that may pass, and read up to ``limit`` bytes.

        Errors as in ``request``, with Transient instead of Interrupted.
        """
        tries = Tries(self.name, self.transfer, what=f"{method} for {self.name}")
        given: Body | None = None if body is None else partial(_once, body)
        sized = {"Content-Length": str(len(body or b""))} if method not in ("GET", "HEAD") else {}
        while True:
            try:
                with self.request(
                    method, url, headers=sized | dict(headers or {}), body=given, accepted=accepted
                ) as response:
                    return Answer(
                        status=response.status_code,
                        headers=response.headers,
                        content=read_up_to(response, limit) if limit else b"",
                    )
            except Interrupted as error:
                tries.failed(error)

    def manifest(self, name: str) -> bytes | None:
        """Return the manifest under a tag or digest; None if there is none."""
        return self.get(f"manifests/{name}")

    def get(self, path: str) -> bytes | None:
        """Return a document below the repository; None if there is none."""
        answer = self.call(
            "GET",
            path,
            headers={"Accept": ", ".join(image_manifest.TYPES)},
            accepted=(200, 404),
            limit=image_manifest.LONGEST,
        )
        return None if answer.status == 404 else answer.content


def _once(body: bytes) -> Iterator[bytes]:
    yield body
