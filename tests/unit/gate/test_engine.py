"""The gate's connections to vLLM."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from finetune_gate.engine import Engine


@asynccontextmanager
async def place(_: str) -> AsyncIterator[None]:
    yield


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request, and close the connection when the next one arrives."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.lower().split(b"\r\n")
        if b"content-length" in line
    )
    await reader.readexactly(length)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    await reader.read(1)
    writer.close()


async def test_a_connection_that_vllm_has_closed_is_not_used_again(tmp_path: Path) -> None:
    socket = tmp_path / "vllm.sock"
    server = await asyncio.start_unix_server(answer, path=str(socket))
    engine = Engine(socket, base="base", place=place)
    try:
        await engine.load("first", tmp_path)
        await engine.load("second", tmp_path)
    finally:
        await engine.close()
        server.close()
