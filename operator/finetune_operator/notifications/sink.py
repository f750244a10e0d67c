"""The HTTP endpoint that gets the events: a POST for each, in the structured mode of CloudEvents.

Redirects are not followed, because they would send the token to another server. The body of a
response is not read, and no text has the token.
"""

import ssl
from pathlib import Path

import aiohttp

from finetune_api.safety import credentials
from finetune_operator.config import SinkConfig
from finetune_operator.notifications.events import CONTENT_TYPE, CloudEvent

TIMEOUT_SECONDS = 10.0
MAX_RETRY_AFTER = 3600.0
FINAL = frozenset({400, 413, 415, 422})
"""Responses after which the same event would be rejected again."""


class Rejected(Exception):
    """The sink rejects an event for good."""


class Unavailable(Exception):
    """The sink does not accept an event now.

    answered: whether it has responded, so that another event may be accepted; retry_after: seconds
    that it asked to wait.
    """

    def __init__(self, text: str, *, answered: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.answered, self.retry_after = answered, retry_after


class Sink:
    """A sink, with its certificates and its token."""

    def __init__(self, config: SinkConfig, *, ca_certificates: str = "") -> None:
        """ca_certificates: PEM of further authorities."""
        self._config = config
        self._tls = ssl.create_default_context()
        if ca_certificates:
            self._tls.load_verify_locations(cadata=ca_certificates)

    async def send(self, event: CloudEvent) -> None:
        """Send an event. Raises Rejected and Unavailable."""
        headers = {"Content-Type": CONTENT_TYPE, **self._authorization()}
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(
                    self._config.url,
                    data=event.to_json(),
                    headers=headers,
                    ssl=self._tls,
                    allow_redirects=False,
                ) as response,
            ):
                status = response.status
                retry_after = response.headers.get("Retry-After", "")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{type(error).__name__}: {error}") from error
        if 200 <= status < 300:
            return
        if status in FINAL:
            raise Rejected(f"HTTP {status}")
        seconds = float(retry_after) if retry_after.isascii() and retry_after.isdecimal() else 0.0
        pause = min(seconds, MAX_RETRY_AFTER)
        raise Unavailable(f"HTTP {status}", answered=True, retry_after=pause)

    def _authorization(self) -> dict[str, str]:
        """Return the header with the token, which a renewed Secret replaces. Raises Unavailable."""
        if not self._config.token_file:
            return {}
        field = "notifications.sink.tokenSecret"
        try:
            text = Path(self._config.token_file).read_text(encoding="utf-8")
            token = credentials.checked(text, what="the token of the sink", field=field)
        except (OSError, UnicodeDecodeError, credentials.InvalidCredential) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise Unavailable(f"chart value {field}: {reason}") from None
        return {"Authorization": f"Bearer {token}"}
