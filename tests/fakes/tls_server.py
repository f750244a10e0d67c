"""What fakes of web servers share: a thread per connection, TLS, no log, and clients that die."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Handles every request in ``handle_request``, whatever its method is."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def handle_request(self) -> None:
        """Answer a request."""
        raise NotImplementedError

    def log_message(self, format: str, *args: object) -> None:
        """Suppress the log."""

    def handle_expect_100(self) -> bool:
        """Let the client send its body, which it waits to do."""
        done = super().handle_expect_100()
        self.wfile.flush()
        return done

    def do_HEAD(self) -> None:
        self.handle_request()

    def do_GET(self) -> None:
        self.handle_request()

    def do_POST(self) -> None:
        self.handle_request()

    def do_PUT(self) -> None:
        self.handle_request()

    def do_PATCH(self) -> None:
        self.handle_request()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that are killed close their connections."""


@contextmanager
def serving(handler: type[Handler], context: ssl.SSLContext) -> Iterator[Any]:
    """Run a server on a free port, and yield it."""
    server = _Server(("127.0.0.1", 0), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
