"""The streams of the gate on Starlette, uvicorn and httpx, for the comparison with aiohttp.

``python -m bench.endpoint.starlette_gate SOCKET PORT``. The project does not install these
packages. The events are read and rewritten by the code of the gate. Keys, the queue, the allow-list
of fields and the time limit of a slow reader, which the gate has in addition, are left out.
"""

import json
import sys
from collections.abc import AsyncIterator

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from bench.endpoint.gate import INTERNAL, NAME
from finetune_gate.engine import URL
from finetune_gate.events import Events

PATH = "/v1/chat/completions"
SECONDS = 600.0


def application(socket: str) -> Starlette:
    """Return the application, which sends each request to vLLM on a Unix socket."""
    client = httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=socket), timeout=SECONDS)

    async def chat(request: Request) -> StreamingResponse:
        body = {**json.loads(await request.body()), "model": INTERNAL}
        return StreamingResponse(_events(client, body), media_type="text/event-stream")

    return Starlette(routes=[Route(PATH, chat, methods=["POST"])])


async def _events(client: httpx.AsyncClient, body: object) -> AsyncIterator[bytes]:
    events = Events(internal=INTERNAL, public=NAME, show_usage=False)
    async with client.stream("POST", f"{URL}{PATH}", json=body) as upstream:
        async for data in upstream.aiter_raw():
            if complete := events.feed(data):
                yield complete


if __name__ == "__main__":
    uvicorn.run(application(sys.argv[1]), port=int(sys.argv[2]), log_level="error")
