"""The server of a fake kubelet, which the API server calls: logs of containers, and port-forwards.

A port-forward is a WebSocket with two channels per port, as the official client expects it.
"""

import base64
import hashlib
import ssl
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.fakes import tls_server
from tests.support.api_server.controlplane import ControlPlane

NODE = "gpu-node-1"
PORT = 8000
HANDSHAKE = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
BINARY, CLOSE = 2, 8
DATA, ERROR = b"\x00", b"\x01"
Endpoint = Callable[[bytes], Iterable[bytes]]
"""Takes an HTTP request, and returns the parts of its response."""


@contextmanager
def node(
    plane: ControlPlane,
    logs: Mapping[str, bytes],
    endpoint: Endpoint | None = None,
    *,
    port: int = PORT,
) -> Iterator[str]:
    """Register a node until the end of the block; yield its name.

    logs: by container; endpoint: of the pods, at a port.
    """

    class Kubelet(_Kubelet):
        text_of = logs
        endpoints = () if endpoint is None else (endpoint,)
        forwarded = port

    # The API server does not verify the certificate of a kubelet.
    pair = plane.folder / "certificates"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair / "apiserver.crt", pair / "apiserver.key")
    with tls_server.serving(Kubelet, context) as server:
        plane.post("/api/v1/nodes", {"metadata": {"name": NODE}})
        status: dict[str, Any] = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": server.server_address[1]}},
        }
        plane.merge(f"/api/v1/nodes/{NODE}/status", {"status": status})
        try:
            yield NODE
        finally:
            plane.delete(f"/api/v1/nodes/{NODE}")


class _Kubelet(tls_server.Handler):
    text_of: Mapping[str, bytes] = {}
    endpoints: Sequence[Endpoint] = ()
    forwarded = PORT

    def handle_request(self) -> None:
        parts = urlsplit(self.path)
        if parts.path.startswith("/portForward/"):
            self._forward()
            return
        lines = self.text_of[parts.path.rpartition("/")[2]].splitlines(keepends=True)
        tail = parse_qs(parts.query).get("tailLines")
        text = b"".join(lines[-int(tail[0]) :] if tail else lines)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _forward(self) -> None:
        (endpoint,) = self.endpoints
        key = self.headers["Sec-WebSocket-Key"] + HANDSHAKE
        self.send_response_only(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        accepted = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_header("Sec-WebSocket-Accept", accepted)
        self.send_header("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
        self.end_headers()
        self.close_connection = True
        for channel in (DATA, ERROR):
            self._send(channel + struct.pack("<H", self.forwarded))
        request = b""
        while not _complete(request):
            opcode, data = self._frame()
            if opcode == CLOSE:
                return
            request += data[1:]
        for part in endpoint(request):
            self._send(DATA + part)
        while self._frame()[0] != CLOSE:
            continue

    def _send(self, data: bytes) -> None:
        length = bytes([len(data)]) if len(data) < 126 else b"\x7e" + struct.pack(">H", len(data))
        self.wfile.write(bytes([0x80 | BINARY]) + length + data)
        self.wfile.flush()

    def _frame(self) -> tuple[int, bytes]:
        """Return opcode and data of the next frame; CLOSE at the end of the connection."""
        head = self.rfile.read(2)
        if len(head) < 2:
            return CLOSE, b""
        length = head[1] & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", self.rfile.read(2))
        mask = self.rfile.read(4)
        data = self.rfile.read(length)
        return head[0] & 0x0F, bytes(each ^ mask[at % 4] for at, each in enumerate(data))


def _complete(request: bytes) -> bool:
    head, found, body = request.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if found and line.startswith(b"content-length:"):
            return len(body) >= int(line.partition(b":")[2])
    return bool(found)
