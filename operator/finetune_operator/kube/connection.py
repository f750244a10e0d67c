"""HTTP requests to the API server: one pool of connections, and JSON as bytes.

The official client (``kubernetes.aio``) supplies only the configuration: address, certificates,
proxy and token. Its request layers cost more processor time than the request itself.
"""

import json
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson
from kubernetes.aio.client.configuration import Configuration
from yarl import URL

from finetune_operator.objects import naming
from finetune_operator.types import Object

JSON = "application/json"
Decode = Callable[[bytes], dict[str, Any]]
"""Returns the object in a text of JSON."""
LINE_BYTES = 2 << 20
"""Size of the read buffer. A watch event is one line, as long as an object."""

# Each TLS connection allocates a buffer of this size: 256 KiB by default, 14 MiB for all of them.
SSLProtocol.max_size = 64 << 10


class Connection:
    """A pool of connections to one API server, with the credentials of its configuration."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self._tls = tls(configuration)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        limit: aiohttp.ClientTimeout,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Return a request, which is sent when its context is entered."""
        configuration = self.configuration
        headers = {"Accept": accept}
        if body is not None:
            headers["Content-Type"] = content_type
        # The configuration reloads a token file and runs the exec plugin of a kubeconfig.
        token = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        if token:
            headers["Authorization"] = token
        url = configuration.host + path + (f"?{urlencode(query)}" if query else "")
        if self._session is None:
            # A session belongs to the event loop that runs when it is created.
            self._session = session(
                self._tls, read_bufsize=LINE_BYTES, skip_auto_headers=("Content-Type",)
            )
        return self._session.request(
            method,
            URL(url, encoded=True),
            data=body,
            headers=headers,
            timeout=limit,
            allow_redirects=False,
            proxy=configuration.proxy,
            proxy_headers=configuration.proxy_headers,
            server_hostname=configuration.tls_server_name,
        )


def session(
    context: ssl.SSLContext, *, headers: Mapping[str, str] | None = None, **options: Any
) -> aiohttp.ClientSession:
    """Return a session for requests to the API server. options: of aiohttp.ClientSession."""
    return aiohttp.ClientSession(
        # The workers limit the requests in flight. Each watch holds a connection all the time: one
        # for each kind, in each of the watched namespaces.
        connector=aiohttp.TCPConnector(limit=0, ssl=context),
        # Compressing lists takes a fifth of the processor time of the API server for them.
        headers={"User-Agent": naming.MANAGED_BY, "Accept-Encoding": "identity", **(headers or {})},
        # The configuration has the proxy; the environment would be read before every request.
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        **options,
    )


def tls(configuration: Configuration) -> ssl.SSLContext:
    """Return the certificates of a configuration, and its checks of those of the server."""
    context = ssl.create_default_context(
        cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data
    )
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if configuration.disable_strict_ssl_verification:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def encoded(body: Object) -> bytes:
    """Return an object as JSON."""
    try:
        return orjson.dumps(body, default=_as_dict)
    except TypeError:
        # A text from a pod may contain half of a surrogate pair, which only escapes can express.
        return json.dumps(body, default=_as_dict).encode()


def decoded(text: bytes) -> dict[str, Any]:
    """Return the object in a response; any other response as its ``message``."""
    try:
        value = orjson.loads(text)
    except ValueError:
        return {"message": text.decode(errors="replace")[:1000]}
    return value if isinstance(value, dict) else {"message": str(value)[:1000]}


def _as_dict(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
