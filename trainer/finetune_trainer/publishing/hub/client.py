"""The client of a hub for one target, with its own certificates, and a token for the hub alone."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import HfApi, constants, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from finetune_api.contracts.publish_targets import HuggingFaceTarget
from finetune_api.safety.redaction import one_line
from finetune_trainer.errors import Transient
from finetune_trainer.publishing.target_errors import TargetRejected
from finetune_trainer.sources import egress, trust
from finetune_trainer.sources.origin import origin

TIMEOUT = httpx.Timeout(60.0, connect=20.0)


@contextmanager
def connected(place: HuggingFaceTarget, token: str | None, *, field: str) -> Iterator[HfApi]:
    """Yield the client of the hub of a target. field: of the target, for errors."""
    endpoint = (place.endpoint or constants.ENDPOINT).rstrip("/")
    context = ssl.create_default_context()
    if place.ca is not None:
        trust.load(context, Path(place.ca), field=f"{field}.caConfigMapRef")

    def check(request: Any) -> None:
        url = str(request.url)
        if "Authorization" in request.headers and origin(url) != origin(endpoint):
            raise TargetRejected(
                f"the hub {endpoint} asks for its token at {one_line(str(origin(url)))}, which is "
                "another host, so it is not sent: check the address that the hub has of itself in "
                "its configuration"
            )
        # The administrator has chosen the hub, and the hub the servers that store its files.
        egress.announce(url, chosen_by_job=False)

    # The client has one session for the process, which it makes again after a failure.
    set_client_factory(
        lambda: httpx.Client(
            verify=context,
            event_hooks={"request": [check], "response": [_require_no_pause]},
            follow_redirects=True,
            timeout=TIMEOUT,
        )
    )
    try:
        # False: the client would look for a token in the environment otherwise.
        yield HfApi(endpoint=endpoint, token=token or False)
    finally:
        set_client_factory(default_client_factory)


def _require_no_pause(response: Any) -> None:
    """Raise Transient if the hub asks to wait: the client would, as long as the hub likes."""
    if response.status_code == 429 or "Retry-After" in response.headers:
        raise Transient(
            f"the hub limits the number of requests (HTTP {response.status_code}): the next "
            "attempt sends only the files that it does not hold yet"
        )
