"""An HTTP proxy as a process of its own: CONNECT only, with its own table of host names.

Only the proxy can resolve the names, as in a network in which pods have no DNS for the internet.
``python proxy.py LOG HOST=PORT ...`` prints its port. Before it connects to a host, it writes the
host and port that a client asked for to LOG.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Proxy:
    url: str
    log: Path

    def requests(self) -> set[str]:
        """Return the hosts and ports that clients have asked for."""
        return set(self.log.read_text().splitlines())

    def forget(self) -> None:
        self.log.write_text("")


@contextmanager
def proxy(hosts: Mapping[str, int], log: Path) -> Iterator[Proxy]:
    """Run the proxy until the block ends. hosts: names, and the ports of their local servers."""
    log.touch()
    names = (f"{name}={port}" for name, port in hosts.items())
    command = [sys.executable, __file__, str(log), *names]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Proxy(url=f"http://127.0.0.1:{process.stdout.readline().strip()}", log=log)
        finally:
            process.terminate()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


async def _serve(log: Path, hosts: Mapping[str, int]) -> None:
    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, *_ = (await reader.readuntil(b"\r\n\r\n")).decode().split()
        with log.open("a") as file:
            file.write(f"{target}\n")
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
    names = (word.split("=") for word in sys.argv[2:])
    asyncio.run(_serve(Path(sys.argv[1]), {name: int(port) for name, port in names}))
