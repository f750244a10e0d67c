"""The HTTP session of kopf, whose lists have pages of a limited number of bytes (``page_size``).

kopf requests all pages of a list with the same ``limit``. The session replaces it, and repeats a
request whose page is too large before kopf parses the page.
"""

import aiohttp
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
from kubernetes.aio.client.configuration import Configuration

from finetune_operator.kube import connection
from finetune_operator.kube.page_size import PageSize, PageTooLarge

LIMIT = "limit"


def session(configuration: Configuration, *, page: int) -> aiohttp.ClientSession:
    """Return a session with the credentials of a configuration. page: most objects of a page."""
    scheme, _space, token = configuration.api_key.get("BearerToken", "").partition(" ")
    credentials = {"Authorization": f"{scheme} {token.strip()}"} if token.strip() else {}
    return connection.session(
        connection.tls(configuration),
        headers=credentials,
        proxy=configuration.proxy,
        middlewares=(_Pages(page),),
    )


class _Pages:
    """A middleware that limits the bytes of each page of a list."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._sizes: dict[str, PageSize] = {}
        """By path: kopf lists the objects of one path at a time."""

    async def __call__(self, request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
        if LIMIT not in request.url.query:
            return await send(request)
        size = self._sizes.setdefault(request.url.path, PageSize(self._most))
        while True:
            request.url = request.url.update_query({LIMIT: str(size.now)})
            response = await send(request)
            if response.status != 200:
                return response
            try:
                # kopf gets the text that is read here.
                size.check(len(await response.read()))
                return response
            except PageTooLarge:
                continue
