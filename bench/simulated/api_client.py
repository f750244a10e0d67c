"""Client of the API server for the scale benchmarks."""

import contextlib
import json
import urllib.parse
from collections.abc import AsyncGenerator
from typing import Any, Self

import aiohttp
from tests.support.api_server.controlplane import TOKEN, ControlPlane

CONNECTIONS = 48
PAGE = 500
"""Objects in a response."""

Object = dict[str, Any]


class Expired(Exception):
    """The API server does not have the events since a version any more."""


class Api:
    """Client of the API server for many concurrent requests."""

    def __init__(self, plane: ControlPlane, *, connections: int = CONNECTIONS) -> None:
        self.server = plane.server
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=plane.tls, limit=connections),
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self.session.close()

    async def create_namespace(self, name: str) -> None:
        """Create a namespace, unless it exists."""
        await self.send("POST", "/api/v1/namespaces", {"metadata": {"name": name}})

    async def send(
        self, method: str, path: str, body: Any = None, kind: str = "application/json"
    ) -> Object:
        """Send a request. Return {} on 404 and 409; raise RuntimeError on other errors."""
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": kind}
        async with self.session.request(
            method, self.server + path, data=data, headers=headers
        ) as answer:
            if answer.status in (404, 409):
                return {}
            text = await answer.text()
            if answer.status >= 300:
                raise RuntimeError(f"{method} {path}: {answer.status} {text[:500]}")
            document: Object = json.loads(text)
            return document

    async def watch(self, path: str, query: str) -> AsyncGenerator[tuple[str, Object], None]:
        """Yield existing objects as ADDED, then all events; never ends.

        On a busy machine, the API server may forget the events since the last one. The objects are
        then listed again, and those that are gone are reported as DELETED.
        """
        listed: dict[str, Object] = {}
        while True:
            items, since = await self._list(path, query)
            present = {manifest["metadata"]["uid"]: manifest for manifest in items}
            for uid in listed.keys() - present.keys():
                yield "DELETED", listed.pop(uid)
            for uid, manifest in present.items():
                listed[uid] = manifest
                yield "ADDED", manifest
            with contextlib.suppress(Expired):
                while True:
                    async for event in self._events(path, f"{query}&resourceVersion={since}"):
                        metadata = event["object"]["metadata"]
                        uid, since = metadata["uid"], metadata["resourceVersion"]
                        if event["type"] == "DELETED":
                            listed.pop(uid, None)
                        else:
                            listed[uid] = event["object"]
                        yield event["type"], event["object"]

    async def _list(self, path: str, query: str) -> tuple[list[Object], str]:
        """Return all objects, and their version.

        The API server aborts a response after a minute, in which a busy machine cannot read all.
        """
        items: list[Object] = []
        token = ""
        while True:
            page = f"{query}&limit={PAGE}&continue={urllib.parse.quote(token)}"
            listing = await self.send("GET", f"{path}?{page}")
            items += listing["items"]
            token = listing["metadata"].get("continue", "")
            if not token:
                return items, listing["metadata"]["resourceVersion"]

    async def _events(self, path: str, query: str) -> AsyncGenerator[Object, None]:
        """Yield the events of one watch until it ends. Raises Expired."""
        url = f"{self.server}{path}?watch=1&{query}"
        async with self.session.get(url, timeout=None, read_bufsize=1 << 20) as answer:
            async for line in answer.content:
                event: Object = json.loads(line)
                if event["type"] == "ERROR":
                    if event["object"].get("code") == 410:
                        raise Expired
                    raise RuntimeError(f"watch of {path}: {event['object']}")
                yield event
