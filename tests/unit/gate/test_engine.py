"""The gate's connections to vLLM."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from finetune_gate.engine import Engine


@asynccontextmanager
async def place(_: str) -> AsyncIterator[None]:
    yield


class Server:
    """Answers one request on a connection, and closes it when the next one arrives."""

    def __init__(self) -> None:
        self.connections: list[asyncio.StreamWriter] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
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
    socket, vllm = tmp_path / "vllm.sock", Server()
    server = await asyncio.start_unix_server(vllm.answer, path=str(socket))
    engine = Engine(socket, base="base", place=place)
    try:
        await engine.load("first", tmp_path)
        await engine.load("second", tmp_path)
    finally:
        await engine.close()
        for connection in vllm.connections:
            await connection.wait_closed()
        server.close()
