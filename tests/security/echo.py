"""A malicious server that returns the credentials of each request, as a hub and as a web server."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.trainer.web import Certificate


class Echo(BaseHTTPRequestHandler):
    """Refuses every request, and quotes its headers wherever a client may pick them up."""

    seen: list[str]
    status = 401

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer with the credentials of the request in status line, headers, URL and body."""
        sent = self.headers.get("Authorization", "")
        token = self.headers.get("X-Amz-Security-Token", "")
        Echo.seen.append(f"{sent} {token}")
        quoted = json.dumps({"error": sent, "token": token}).encode()
        self.send_response(Echo.status, f"refused {sent}")
        self.send_header("X-Error-Message", f"{sent} {token} is not valid")
        self.send_header("X-Request-Id", sent)
        self.send_header("Location", f"https://127.0.0.1:1/?Signature={sent.replace(' ', '+')}")
        self.send_header("Content-Length", str(len(quoted)))
        self.end_headers()
        self.wfile.write(quoted)

    do_HEAD = do_GET


@contextmanager
def echoing(own: Certificate | None) -> Iterator[str]:
    """Run the server, with TLS if there is a certificate, and yield its URL."""
    Echo.seen, Echo.status = [], 401
    listener = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    if own is not None:
        listener.socket = own.context().wrap_socket(listener.socket, server_side=True)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http{'s' if own else ''}://127.0.0.1:{listener.server_port}"
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()
