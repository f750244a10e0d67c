"""A gate of this process in front of the fake vLLM."""

import argparse
import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from tests.fakes import vllm_server
from tests.fakes.vllm_server import FakeVllm
from tests.support.gate.claim import MODULES, Claim
from tests.support.ports import free_port
from tests.support.signing_keys import KEY

from finetune_api.contracts.endpoint import (
    PAYLOAD_TYPE,
    EndpointStatus,
    NameStatus,
    WantedName,
    WantedSet,
)
from finetune_api.contracts.provenance import attestation
from finetune_gate import __main__ as gate
from finetune_operator.signing import SigningKey

ENDPOINT = "0f3c"
PATIENCE = 180.0


def signed(
    names: Sequence[WantedName],
    sequence: int = 1,
    *,
    key: SigningKey = KEY,
    endpoint: str = ENDPOINT,
    kind: str = PAYLOAD_TYPE,
) -> bytes:
    """Return a wanted set as the operator writes it."""
    wanted = WantedSet(endpoint=endpoint, sequence=sequence, names=tuple(names))
    return envelope(wanted.payload(), key=key, kind=kind)


def envelope(payload: bytes, *, key: SigningKey = KEY, kind: str = PAYLOAD_TYPE) -> bytes:
    """Return a signed envelope of any payload."""
    signature = key.sign(attestation.signed_bytes(payload, kind=kind))
    return json.dumps(attestation.envelope(payload, signature, kind=kind)).encode()


@dataclass
class Gate:
    """A running gate."""

    url: str
    operator_url: str
    session: aiohttp.ClientSession
    vllm: FakeVllm
    claim: Claim
    wanted: Path
    sequence: int = 0

    async def want(self, *names: WantedName) -> None:
        """Let the operator send a wanted set."""
        self.sequence += 1
        status, text = await self.put(signed(names, self.sequence))
        assert status == 204, text

    async def put(self, document: bytes) -> tuple[int, str]:
        """Send a document as a wanted set."""
        async with self.session.put(f"{self.operator_url}/wanted", data=document) as response:
            return response.status, await response.text()

    async def status(self) -> EndpointStatus:
        async with self.session.get(f"{self.operator_url}/status") as response:
            return EndpointStatus.model_validate_json(await response.read())

    async def metrics(self) -> str:
        async with self.session.get(f"{self.operator_url}/metrics") as response:
            return await response.text()

    async def ready(self) -> int:
        async with self.session.get(f"{self.operator_url}/readyz") as response:
            return response.status

    async def is_true(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Wait until a condition holds."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not await condition():
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)

    async def has_running(self, count: int = 1) -> None:
        """Wait until some requests run in vLLM."""

        async def running() -> bool:
            return len(self.vllm.running) >= count

        await self.is_true(running)

    async def answers(self, name: str, status: int, *, key: str | None = None) -> None:
        """Wait until a request for a name has a status."""

        async def answered() -> bool:
            return (await self.chat(name, key=key))[0] == status

        await self.is_true(answered)

    async def reports(self, text: str, *, is_there: bool = True) -> None:
        """Wait until the metrics contain a text, or no longer do."""

        async def reported() -> bool:
            return (text in await self.metrics()) == is_there

        await self.is_true(reported)

    async def until(self, name: str, is_there: Callable[[NameStatus], bool]) -> NameStatus:
        """Wait for the status of a name."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        found = None
        while asyncio.get_running_loop().time() < deadline:
            names = {each.name: each for each in (await self.status()).names}
            found = names.get(name)
            if found is not None and is_there(found):
                return found
            await asyncio.sleep(0.02)
        raise AssertionError(f"{name} is {found}")

    async def serves(self, *names: WantedName) -> None:
        """Want these names, and wait until all answer."""
        await self.want(*names)
        for name in names:
            await self.until(name.name, lambda each: each.state == "Serving")

    async def post(
        self, path: str, body: dict[str, Any], *, key: str | None = None, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        async with self.session.post(f"{self.url}{path}", json=body, headers=headers) as response:
            return response.status, await response.json()

    async def chat(
        self, name: str, *, key: str | None = None, **fields: Any
    ) -> tuple[int, dict[str, Any]]:
        messages = [{"role": "user", "content": "hello"}]
        body = {"model": name, "messages": messages, "max_tokens": 4, **fields}
        return await self.post("/v1/chat/completions", body, key=key)

    async def stream(self, name: str, count: int = 8, **fields: Any) -> list[dict[str, Any]]:
        """Return the events of a completed stream."""
        body = {"model": name, "prompt": "hello", "max_tokens": count, "stream": True, **fields}
        async with self.session.post(f"{self.url}/v1/completions", json=body) as response:
            assert response.status == 200, await response.text()
            text = (await response.read()).decode()
        events = text.split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""], text
        return [json.loads(each.removeprefix("data: ")) for each in events[:-2]]


def connected(
    gate: Gate, body: dict[str, Any], *, buffer: int = 4096, key: str = ""
) -> socket.socket:
    """Send a request for a completion, and read nothing.

    buffer: bytes that the kernel accepts for the caller.
    """
    target = urlsplit(gate.url)
    assert target.hostname is not None
    assert target.port is not None
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    found.connect((target.hostname, target.port))
    data = json.dumps(body).encode()
    headers = [
        "POST /v1/completions HTTP/1.1",
        "Host: a",
        f"Content-Length: {len(data)}",
        *([f"Authorization: Bearer {key}"] if key else []),
    ]
    found.sendall("\r\n".join([*headers, "", ""]).encode() + data)
    return found


def options(folder: Path, claim: Claim, *extra: str) -> argparse.Namespace:
    """Return the options of a gate whose files are below a folder."""
    return gate.parser().parse_args(words(folder, claim, *extra))


def words(folder: Path, claim: Claim, *extra: str) -> list[str]:
    """Return the command line of a gate whose files are below a folder."""
    arguments = {
        "endpoint": ENDPOINT,
        "public-key": KEY.public_key.decode(),
        "min-sequence": "1",
        "wanted": str(folder / "wanted.json"),
        "socket": str(folder / "vllm.sock"),
        "claim": str(claim.root),
        "copies": str(folder / "copies"),
        "base": str(claim.root / "base"),
        "base-manifest": claim.base_manifest,
        "base-kind": "original",
        "base-name": vllm_server.BASE,
        "dtype": "bfloat16",
        "max-rank": "16",
        "max-adapters": "4",
        "max-active": "3",
        "capacity": "32",
        "max-wait": "1",
        "port": str(free_port()),
        "operator-port": str(free_port()),
    }
    given = [word for name, value in arguments.items() for word in (f"--{name}", value)]
    return [*given, "--modules", *MODULES, *extra]


@asynccontextmanager
async def running(
    folder: Path, *extra: str, vllm: FakeVllm | None = None, claim: Claim | None = None
) -> AsyncIterator[Gate]:
    """Run a gate during the block, with a fake vLLM unless one is given."""
    if vllm is None:
        async with (
            vllm_server.serving(folder / "vllm.sock") as started,
            running(folder, *extra, vllm=started, claim=claim) as found,
        ):
            yield found
        return
    claim = claim or Claim.create(folder / "claim")
    parsed = options(folder, claim, *extra)
    stop = asyncio.Event()
    task = asyncio.create_task(gate.run(parsed, stop))
    try:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            found = Gate(
                url=f"http://127.0.0.1:{parsed.port}",
                operator_url=f"http://127.0.0.1:{parsed.operator_port}",
                session=session,
                vllm=vllm,
                claim=claim,
                wanted=parsed.wanted,
            )
            await _listening(found, task)
            yield found
    finally:
        stop.set()
        await task


async def _listening(found: Gate, task: "asyncio.Task[None]") -> None:
    while True:
        if task.done():
            task.result()
            raise AssertionError("the gate ended")
        try:
            async with found.session.get(f"{found.operator_url}/livez"):
                return
        except aiohttp.ClientError:
            await asyncio.sleep(0.01)
