"""Connections of urllib3 for the client of httpx, which has none that is fast enough for models.

Its own reads one TLS record (16 KiB) at a time, and each passes through a dozen functions: they
take more processor time than the SHA-256 of the bytes.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import getproxies, proxy_bypass
from weakref import WeakSet

import httpx
import urllib3
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationParseError,
    ProtocolError,
    ReadTimeoutError,
)

from finetune_trainer.errors import InvalidSpec

CHUNK = 1 << 18
"""Bytes of one read."""
SEND_SECONDS = 60.0


class Transport(httpx.BaseTransport):
    """Sends requests directly, or through the proxy that the environment names."""

    def __init__(self, context: ssl.SSLContext) -> None:
        """``context``: what TLS trusts."""
        self._context = context
        self._opened: dict[tuple[str, int | None], urllib3.HTTPConnectionPool] = {}
        self._answers: WeakSet[urllib3.BaseHTTPResponse] = WeakSet()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return the response, whose body is not read."""
        seconds = request.extensions["timeout"]
        has_body = request.headers.get("Content-Length", "0") != "0"
        with _errors_of_httpx():
            response = self._connections(request.url).urlopen(
                request.method,
                request.url.raw_path.decode("ascii"),
                body=_sent(request) if has_body else None,
                headers=request.headers,
                timeout=urllib3.Timeout(connect=seconds["connect"], read=seconds["read"]),
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        self._answers.add(response)
        headers = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in response.headers.items()
        ]
        return httpx.Response(response.status, headers=headers, stream=_Received(response))

    def close(self) -> None:
        """Close all connections, those of unread answers as well."""
        for answer in tuple(self._answers):
            answer.close()
        for connections in self._opened.values():
            connections.close()

    def _connections(self, url: httpx.URL) -> urllib3.HTTPConnectionPool:
        server = (url.host, url.port)
        if server not in self._opened:
            # An exception from the proxy may name a port.
            direct = proxy_bypass(f"{url.host}:{url.port or 443}")
            proxied = None if direct else _proxied(self._context)
            manager = proxied or urllib3.PoolManager(ssl_context=self._context)
            manager.pool_classes_by_scheme = {"https": _Connections}
            self._opened[server] = manager.connection_from_host(url.host, url.port, url.scheme)
        return self._opened[server]


class _Connection(HTTPSConnection):
    """A connection that may take as long to send as to receive, and not only as to connect."""

    def request(self, *args: Any, **options: Any) -> None:
        self.timeout = SEND_SECONDS
        try:
            super().request(*args, **options)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            # urllib3 then reads the answer: a server may refuse a body before it has all of it.
            raise BrokenPipeError from error


class _Connections(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Connection


class _Unreadable(Exception):
    """The body of a request cannot be read. urllib3 takes an OSError for one of the network."""

    def __init__(self, cause: OSError) -> None:
        super().__init__()
        self.cause = cause


def _sent(request: httpx.Request) -> Iterator[bytes]:
    """Yield the body of a request."""
    assert isinstance(request.stream, httpx.SyncByteStream)
    try:
        yield from request.stream
    except OSError as error:
        raise _Unreadable(error) from error


class _Received(httpx.SyncByteStream):
    """The body of a response."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        with _errors_of_httpx():
            while chunk := self._response.read(CHUNK, decode_content=False):
                yield chunk

    def close(self) -> None:
        self._response.close()


def _proxied(context: ssl.SSLContext) -> urllib3.ProxyManager | None:
    """Return connections through the proxy of the environment, if any. Raise InvalidSpec."""
    proxies = getproxies()
    variable = "HTTPS_PROXY" if "https" in proxies else "ALL_PROXY"
    if not (address := proxies.get("https", proxies.get("all"))):
        return None
    scheme = address.partition("://")[0] if "://" in address else "http"
    try:
        proxy = httpx.Proxy(address if "://" in address else f"http://{address}")
        user = None if proxy.auth is None else ":".join(proxy.auth)
        return urllib3.ProxyManager(
            str(proxy.url),
            proxy_headers=urllib3.make_headers(proxy_basic_auth=user),
            ssl_context=context,
            proxy_ssl_context=context,
        )
    except (httpx.InvalidURL, ValueError):
        raise InvalidSpec(
            f"{variable} is not the URL of an HTTP proxy (its scheme is {scheme}), the only kind "
            "that connections to a registry use: set it to a URL such as "
            "http://proxy.example.com:3128, or add the registry to NO_PROXY"
        ) from None


@contextmanager
def _errors_of_httpx() -> Iterator[None]:
    try:
        yield
    except _Unreadable as error:
        raise error.cause from None
    except LocationParseError as error:
        raise httpx.UnsupportedProtocol(str(error)) from error
    except ConnectTimeoutError as error:
        raise httpx.ConnectTimeout(str(error)) from error
    except ReadTimeoutError as error:
        raise httpx.ReadTimeout(str(error)) from error
    except ProtocolError as error:
        raise httpx.RemoteProtocolError(str(error)) from error
    except HTTPError as error:
        raise httpx.ConnectError(str(error)) from error
