"""An HTTP proxy as a process of its own: CONNECT only, with its own table of host names.

Only the proxy can resolve the names, as in a network in which pods have no DNS for the internet.
``python proxy.py HOST=PORT ...`` prints its port, then each host and port that it is asked for.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread


@dataclass
class Proxy:
    url: str
    requests: list[str] = field(default_factory=list)
    """Hosts and ports that clients asked for."""


@contextmanager
def proxy(hosts: Mapping[str, int]) -> Iterator[Proxy]:
    """Run the proxy until the block ends. hosts: names, and the ports of their local servers."""
    command = [sys.executable, __file__, *(f"{name}={port}" for name, port in hosts.items())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = Proxy(url=f"http://127.0.0.1:{process.stdout.readline().strip()}")
        lines = process.stdout
        reader = Thread(target=lambda: found.requests.extend(line.strip() for line in lines))
        reader.start()
        try:
            yield found
        finally:
            process.terminate()
            reader.join()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


async def _serve(hosts: Mapping[str, int]) -> None:
    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, *_ = (await reader.readuntil(b"\r\n\r\n")).decode().split()
        print(target, flush=True)
        name, _, port = target.rpartition(":")
        if method != "CONNECT" or port != "443" or name not in hosts:
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        their_reader, their_writer = await asyncio.open_connection("127.0.0.1", hosts[name])
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_copy(reader, their_writer), _copy(their_reader, writer))

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    sys.path[:] = [each for each in sys.path if Path(each or os.curdir) != Path(__file__).parent]
    asyncio.run(_serve({name: int(port) for name, port in (a.split("=") for a in sys.argv[1:])}))
