"""Client of the API server for the scale benchmarks."""

import json
from collections.abc import AsyncGenerator
from typing import Any, Self

import aiohttp
from tests.support.api_server.controlplane import TOKEN, ControlPlane

CONNECTIONS = 48

Object = dict[str, Any]


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
            found: Object = json.loads(text)
            return found

    async def watch(self, path: str, query: str) -> AsyncGenerator[tuple[str, Object], None]:
        """Yield existing objects as ADDED, then all events; never ends."""
        found = await self.send("GET", f"{path}?{query}")
        for each in found["items"]:
            yield "ADDED", each
        since = found["metadata"]["resourceVersion"]
        while True:
            url = f"{self.server}{path}?watch=1&resourceVersion={since}&{query}"
            async with self.session.get(url, timeout=None, read_bufsize=1 << 20) as answer:
                async for line in answer.content:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise RuntimeError(f"watch of {path}: {event['object']}")
                    since = event["object"]["metadata"]["resourceVersion"]
                    yield event["type"], event["object"]
