"""The server of a URL, to which alone a credential for this server is sent."""

from typing import NamedTuple
from urllib.parse import urlsplit


class Origin(NamedTuple):
    """Scheme, host in lower case, and port of a server."""

    scheme: str
    host: str | None
    port: int

    def __str__(self) -> str:
        """Return the address of the server."""
        return f"{self.scheme}://{self.host}:{self.port}"


def origin(url: str) -> Origin:
    """Return the server of a URL, with the default port of its scheme if it has none."""
    parts = urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    return Origin(parts.scheme, parts.hostname, port)
